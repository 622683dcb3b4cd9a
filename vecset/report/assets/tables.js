// Tables whose headings sort them; rows of class "whole" (means, union) stay last.

function cellValue(row, column) {
  const text = row.cells[column].innerText.replaceAll("−", "-").trim();
  const value = parseFloat(text.replace(/^[^\d.+-]+(?=\d)/, ""));
  return column === 0 || (Number.isNaN(value) && text !== "–" && text !== "") ? text : value;
}

// Numbers by size, words by their letters (numbers in them by size), what is empty last.
function compare(a, b) {
  if (typeof a === "string" || typeof b === "string")
    return String(a).localeCompare(String(b), "en", { numeric: true });
  return Number.isNaN(a) - Number.isNaN(b) || a - b;
}

function makeSortable(table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const [rows, last] = [[], []];
      for (const row of table.tBodies[0].rows) (row.matches(".whole") ? last : rows).push(row);
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((r, s) => sign * compare(cellValue(r, column), cellValue(s, column)));
      table.tBodies[0].append(...rows, ...last);
    });
  });
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
