// The page comes to life: plotly's script, then the charts, then the first heart.

async function main() {
  document.head.append(el("script", { text: await inflate($("#plotly").textContent) }));
  drawCharts();
  if (!data.hearts.length) return "none";
  const parts = [slicesView(), surfacesView()];
  const show = async (caseId) => {
    document.documentElement.dataset.ready = "no";
    marks.forEach((mark) => mark(caseId));
    const heart = data.hearts.find((h) => h.case_id === caseId);
    for (const part of parts) await part(heart);
    document.documentElement.dataset.ready = caseId;
  };
  const marks = $$(".group.hearts").map((group) => onChoice(group, show));
  await show(data.hearts[0].case_id);
  return data.hearts[0].case_id;
}

main()
  .then((ready) => (document.documentElement.dataset.ready = ready))
  .catch((error) => {
    console.error(error);
    $("#problem").textContent = `The charts cannot be drawn in this browser: ${error.message}`;
    $("#problem").hidden = false;
  });
