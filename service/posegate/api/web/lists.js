// Answer -> its two lists on the page: how long each stage took, and who was found.

import { personColor, shownJoints } from "/web/skeleton.js";

export function showStages(table, { stages_ms: stages, total_ms: total }) {
  table.tBodies[0].replaceChildren(...Object.entries(stages).map(([stage, ms]) => {
    const bar = Object.assign(document.createElement("meter"), { max: total, value: ms });
    bar.setAttribute("aria-label", `${stage}, share of the total`);
    return row(stage, ms.toFixed(1), bar);
  }));
  table.deleteTFoot();
  table.createTFoot().append(row("total", total.toFixed(1), ""));
}

function row(...cells) {
  const line = document.createElement("tr");
  for (const cell of cells) line.insertCell().append(cell);
  return line;
}

// Rows are kept from frame to frame, and the focus with them; `highlight` is told the index of the one in use, else -1.
export function showPeople(list, { people }, { minimum, highlight }) {
  list.querySelector(".quiet")?.remove();
  while (list.children.length > people.length) list.lastElementChild.remove();
  people.forEach((person, index) => {
    const item = list.children[index] ?? list.appendChild(personRow(index, highlight));
    const joints = Object.keys(shownJoints(person, minimum)).length;
    paint(item.firstChild, personColor(person.id ?? index));
    item.lastChild.data = `score ${person.score.toFixed(2)}, ${joints} of ${Object.keys(person.keypoints).length} joints shown`;
  });
  if (!people.length) list.append(Object.assign(document.createElement("li"), { className: "quiet", textContent: "nobody" }));
}

function personRow(index, highlight) {
  const item = document.createElement("li");
  const dot = Object.assign(document.createElement("canvas"), { width: 12, height: 12, className: "dot" });
  dot.setAttribute("aria-hidden", "true");
  item.append(dot, new Text());
  item.tabIndex = 0;
  for (const type of ["pointerenter", "focus"]) item.addEventListener(type, () => highlight(index));
  for (const type of ["pointerleave", "blur"]) item.addEventListener(type, () => highlight(-1));
  return item;
}

function paint(dot, color) {
  const brush = dot.getContext("2d");
  brush.fillStyle = color;
  brush.fillRect(0, 0, dot.width, dot.height);
}
