// The page, put together from the data that it carries.

function heartsSection() {
  if (!data.hearts.length) return [];
  const slices = slicesView(),
    surfaces = surfacesView();
  const titles = data.hearts.map((heart) => {
    const dice = heart.mean_dice.map((v) => number(v)).join(" → ");
    return [heart.case_id, `${heart.what}: ${heart.case_id} (Dice ${dice})`];
  });
  const tabs = () => choice(titles, titles[0][0], show);
  const both = [tabs(), tabs()];
  async function show(caseId) {
    const heart = data.hearts.find((h) => h.case_id === caseId);
    both.forEach((group) => group.mark(caseId));
    document.documentElement.dataset.ready = "no";
    await Promise.all([slices.show(heart), surfaces.show(heart)]);
    document.documentElement.dataset.ready = caseId;
  }
  both[0].id = "hearts";
  const first = show(titles[0][0]);
  first.catch((error) => {
    console.error(error);
    document
      .querySelector(".view")
      ?.append(el("div", { class: "message", text: `This browser cannot unpack the surfaces (${error.message}).` }));
  });
  return [
    section(
      "hearts-section",
      "Hearts in slices",
      el("div", { class: "bar" }, both[0]),
      data.hearts_note ? el("p", { class: "note", text: data.hearts_note }) : null,
      slices.view,
    ),
    section("surfaces-section", "Hearts in 3D", el("div", { class: "bar" }, both[1]), surfaces.view),
  ];
}

const sections = [
  data.comparison ? comparisonSection() : meansSection(),
  boxSection(),
  ...heartsSection(),
  curvesSection(),
  settingsSection(),
].filter(Boolean);
document.getElementById("page").append(
  el(
    "header",
    {},
    el("h1", { text: data.title }),
    el("p", {
      text:
        `${data.boxes.cases.length} ${data.boxes.cases.length === 1 ? "heart" : "hearts"}, ` +
        `${data.classes.length} structures`,
    }),
    el(
      "nav",
      {},
      sections.map((s) => el("a", { href: `#${s.id}`, text: s.querySelector("h2").textContent })),
    ),
  ),
  ...sections,
);
if (!data.hearts.length) document.documentElement.dataset.ready = "none";
