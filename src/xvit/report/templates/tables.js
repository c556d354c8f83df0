"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const direction = head.ariaSort === "ascending" ? -1 : 1;
    heads.forEach(other => { other.ariaSort = null; });
    head.ariaSort = direction > 0 ? "ascending" : "descending";
    body.append(...[...body.rows].sort((a, b) => direction * order(value(a, column), value(b, column))));
  }));
}
