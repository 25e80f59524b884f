// Confusion matrices as tables that can be read with a pointer, by keyboard and by a screen reader.

const MODES = ["shares of the true class (rows)", "shares of what was predicted (columns)", "counts"];
const ORDERS = ["as listed", "by IoU", "by how often the class occurs"];
const MOST_CONFUSIONS = 12;
const [DEEP_ON_LIGHT, DEEP_ON_DARK] = [0.675, 0.535]; // where black and white letters change places at 4.5:1
const WIDE_CELLS = 26; // up to this many classes, figures fit into the cells

// Of dense counts, row = true class, column = predicted class, last column = no prediction.
class Matrix {
  constructor(kind, names, sparse) {
    this.things = kind === "2D" ? "pixels" : "points";
    this.names = names;
    this.classes = names.length;
    this.columns = this.classes + 1;
    this.counts = new Float64Array(this.classes * this.columns);
    sparse[0].forEach((place, k) => (this.counts[place] = sparse[1][k]));
    this.inTruth = new Float64Array(this.classes);
    this.called = new Float64Array(this.columns);
    for (let row = 0; row < this.classes; row++)
      for (let column = 0; column < this.columns; column++) {
        this.inTruth[row] += this.at(row, column);
        this.called[column] += this.at(row, column);
      }
    this.most = Math.max(1, ...this.inTruth);
  }
  at(row, column) {
    return this.counts[row * this.columns + column];
  }
  iou(k) {
    return this.inTruth[k] ? this.at(k, k) / (this.inTruth[k] + this.called[k] - this.at(k, k)) : -1;
  }
  // Classes that are true or predicted anywhere, in this order.
  shown(order) {
    const kept = [...Array(this.classes).keys()].filter((k) => this.inTruth[k] + this.called[k] > 0);
    const keys = [() => 0, (k) => -this.iou(k), (k) => -this.inTruth[k]];
    return kept.sort((a, b) => keys[order](a) - keys[order](b) || a - b);
  }
  share(row, column, mode) {
    const total = mode === 1 ? this.called[column] : this.inTruth[row];
    return total ? this.at(row, column) / total : 0;
  }
  // How dark a cell is, in [0, 1]; counts on a logarithmic scale.
  depth(row, column, mode) {
    return mode < 2 ? this.share(row, column, mode) : Math.log1p(this.at(row, column)) / Math.log1p(this.most);
  }
  figure(row, column, mode) {
    if (mode === 2) return short(this.at(row, column));
    const percent = 100 * this.share(row, column, mode);
    return percent >= 9.95 ? percent.toFixed(0) : percent.toFixed(1);
  }
  words(row, column, mode) {
    const count = this.at(row, column);
    const none = column === this.classes;
    const [name, other] = [this.names[row], none ? "" : this.names[column]];
    const percent = `${(100 * this.share(row, column, mode)).toFixed(1)} %`;
    const plain = (number) => number.toLocaleString("en");
    if (mode === 2) return `${plain(count)} ${this.things} that are ${name} ${none ? "got no label" : `were called ${other}`}.`;
    const of = `${plain(count)} of ${plain(mode === 1 ? this.called[column] : this.inTruth[row])}`;
    if (mode === 1)
      return `${percent} of the ${this.things} ${none ? "without a label" : `called ${other}`} are ${name} (${of}).`;
    return `${percent} of the ${this.things} that are ${name} ${none ? "got no label" : `were called ${other}`} (${of}).`;
  }
  // The largest confusions, as [row, column].
  worst() {
    const found = [];
    for (let row = 0; row < this.classes; row++)
      for (let column = 0; column < this.columns; column++)
        if (row !== column && this.at(row, column) > 0) found.push([row, column]);
    return found.sort((a, b) => this.at(...b) - this.at(...a)).slice(0, MOST_CONFUSIONS);
  }
}

function short(count) {
  if (count < 1000) return String(count);
  const [size, unit] = count < 1e6 ? [count / 1e3, "k"] : count < 1e9 ? [count / 1e6, "M"] : [count / 1e9, "G"];
  return (size < 9.95 ? size.toFixed(1) : size.toFixed(0)) + unit;
}

// One table with its sentence and its list of the largest confusions; `draw(matrix, mode, order)` fills it.
function matrixPanel(kind) {
  const told = make("output", { class: "told", "aria-live": "polite" }, "Point at a cell, or move with the arrow keys.");
  const table = make("table", { role: "grid", class: "matrix", "aria-label": `Confusion in ${kind}: rows true, columns predicted` });
  const scroll = make("div", { class: "matrix-scroll" }, table);
  const worst = make("ol", { class: "worst" });
  const panel = make("figure", {}, make("figcaption", {}, kind), told, scroll,
    make("details", { open: true }, make("summary", {}, `Largest confusions in ${kind}`), worst));
  let current = null;

  function tell(cell) {
    const [row, column] = [Number(cell.dataset.row), Number(cell.dataset.column)];
    told.textContent = current.matrix.words(row, column, current.mode);
    for (const old of table.querySelectorAll(".marked")) old.classList.remove("marked");
    cell.parentNode.firstChild.classList.add("marked");
    table.rows[0].cells[cell.cellIndex].classList.add("marked");
  }
  function focus(cell) {
    const old = table.querySelector('td[tabindex="0"]');
    if (old) old.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  }
  const cellOf = (event) => event.target.closest("td[data-row]");
  table.addEventListener("pointerover", (event) => cellOf(event) && tell(cellOf(event)));
  table.addEventListener("focusin", (event) => cellOf(event) && tell(cellOf(event)));
  table.addEventListener("click", (event) => cellOf(event) && focus(cellOf(event)));
  table.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    const [last, right] = [table.rows.length - 1, cell.parentNode.cells.length - 1];
    let [row, column] = [cell.parentNode.rowIndex, cell.cellIndex];
    if (event.key === "ArrowUp") row--;
    else if (event.key === "ArrowDown") row++;
    else if (event.key === "ArrowLeft") column--;
    else if (event.key === "ArrowRight") column++;
    else if (event.key === "Home") [row, column] = event.ctrlKey ? [1, 1] : [row, 1];
    else if (event.key === "End") [row, column] = event.ctrlKey ? [last, right] : [row, right];
    else return;
    focus(table.rows[clamp(row, 1, last)].cells[clamp(column, 1, right)]);
    event.preventDefault();
  });

  function draw(matrix, mode, order) {
    current = { matrix, mode };
    const shown = matrix.shown(order);
    const columns = matrix.called[matrix.classes] ? [...shown, matrix.classes] : shown;
    const withFigures = columns.length <= WIDE_CELLS;
    table.classList.toggle("dense", !withFigures);
    const nameOf = (k) => (k === matrix.classes ? "no label" : matrix.names[k]);
    const head = make("tr", {}, make("td", {}, make("span", { class: "muted small" }, "true ↓ called →")));
    for (const k of columns)
      head.append(make("th", { scope: "col", title: nameOf(k) }, make("span", {}, nameOf(k))));
    const body = shown.map((row) => {
      const iou = matrix.iou(row);
      const hint = iou < 0 ? "does not occur" : `IoU ${(100 * iou).toFixed(1)} %`;
      const line = make("tr", {}, make("th", { scope: "row", title: `${nameOf(row)}: ${hint}` }, nameOf(row)));
      for (const column of columns) {
        const cell = make("td", { "data-row": row, "data-column": column, tabindex: "-1" });
        const depth = 0.06 + 0.94 * matrix.depth(row, column, mode);
        if (matrix.at(row, column)) {
          cell.style.setProperty("--depth", `${(100 * depth).toFixed(1)}%`);
          cell.classList.toggle("deep-on-light", depth > DEEP_ON_LIGHT);
          cell.classList.toggle("deep-on-dark", depth > DEEP_ON_DARK);
          if (row === column) cell.classList.add("right");
          if (withFigures && depth >= 0.065) cell.textContent = matrix.figure(row, column, mode);
        }
        line.append(cell);
      }
      return line;
    });
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
    const first = table.querySelector("td[data-row]");
    if (first) first.tabIndex = 0;
    const items = matrix.worst().map(([row, column]) => {
      const go = () => {
        const cell = table.querySelector(`td[data-row="${row}"][data-column="${column}"]`);
        cell.scrollIntoView({ block: "nearest", inline: "center" });
        focus(cell);
      };
      return make("li", {}, make("button", { type: "button", class: "plain", onclick: go }, matrix.words(row, column, mode)));
    });
    worst.replaceChildren(...(items.length ? items : [make("li", {}, "Nothing was taken for anything else.")]));
  }
  return { panel, draw };
}

function startConfusion() {
  const place = document.querySelector(".confusions");
  const data = dataOf("confusions");
  if (!place || !data) return;
  const state = { run: data.runs.length - 1, mode: 0, order: 0 };
  const panels = Object.fromEntries(["2D", "3D"].map((kind) => [kind, matrixPanel(kind)]));
  const draw = () => {
    for (const [kind, { panel, draw: fill }] of Object.entries(panels)) {
      const counts = data.runs[state.run].counts[kind];
      panel.hidden = !counts;
      if (counts) fill(new Matrix(kind, data.names, counts), state.mode, state.order);
    }
  };
  const choose = (key) => (value) => {
    state[key] = value;
    draw();
  };
  place.replaceChildren(
    make("div", { class: "choices" },
      chooser("Row", data.runs.map((run) => run.name), state.run, choose("run")),
      chooser("Show", MODES, 0, choose("mode")),
      chooser("Order", ORDERS, 0, choose("order"))),
    make("div", { class: "charts" }, ...Object.values(panels).map(({ panel }) => panel)));
  // A matrix of 200 classes has 40,000 cells: they are made when they come into sight.
  const watch = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      watch.disconnect();
      draw();
    }
  }, { rootMargin: "800px" });
  watch.observe(place);
  addEventListener("beforeprint", draw);
}

startConfusion();
