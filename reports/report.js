// What a reader with a script gains: charts that answer to the pointer, tables that sort, and
// defenses to hide. Without it every figure and number of the page stands as it is.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- hiding defenses -----------------------------------------------------------------------------

const hidden = new Set();
const isHidden = (element) =>
  hidden.has(element.dataset.defense) || hidden.has(element.dataset.versus);

function toolbar() {
  const bar = document.getElementById("defenses");
  if (!bar) return;
  const boxes = all("input[type=checkbox]", bar);
  const counts = all("[data-count]", bar);
  const apply = () => {
    hidden.clear();
    for (const box of boxes) if (!box.checked) hidden.add(box.value);
    for (const row of all("[data-defense]")) row.hidden = isHidden(row);
    for (const chart of all(".chart")) showLines(chart);
    const words = hidden.size ? `${hidden.size} of ${boxes.length} hidden` : `all ${boxes.length} shown`;
    for (const count of counts) count.textContent = words;
    const names = [...hidden].join(", ");
    document.getElementById("hidden-in-print").textContent = hidden.size
      ? `Left out of the tables by the reader: ${names}. The figures show all defenses.`
      : "";
  };
  bar.addEventListener("change", apply);
  for (const button of all("button[data-all]", bar)) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = button.dataset.all === "true";
      apply();
    });
  }
  bar.firstElementChild.open = boxes.length <= 12 && window.matchMedia("(min-width: 48rem)").matches;
  bar.hidden = false;
  // What the keyboard or a link reaches must not lie under the bar.
  new ResizeObserver(() => {
    document.documentElement.style.scrollPaddingTop = `${bar.offsetHeight + 8}px`;
  }).observe(bar);
  apply(); // a browser may have kept the boxes of an earlier visit
}

// --- charts --------------------------------------------------------------------------------------

const CONFIG = { displayModeBar: false, responsive: true, showTips: false };

function charts() {
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "300px" },
  );
  for (const figure of all("figure[data-chart]")) {
    const image = figure.querySelector("img");
    const plate = document.createElement("div");
    plate.className = "plate";
    image.replaceWith(plate);
    plate.append(image);
    near.observe(figure);
  }
}

// A chart covers its image, so that nothing moves under a reader's finger when it is drawn.
async function draw(figure) {
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  const title = document.createElement("p");
  title.className = "chart-title";
  title.textContent = layout.meta.title;
  const chart = document.createElement("div");
  chart.className = "chart";
  // The image beside it says the same in words.
  title.ariaHidden = chart.ariaHidden = "true";
  const cover = document.createElement("div");
  cover.className = "cover";
  cover.append(title, chart);
  figure.querySelector(".plate").append(cover);
  // A finger that drags over a chart means to scroll the page.
  layout.dragmode = window.matchMedia("(pointer: fine)").matches ? "zoom" : false;
  for (const trace of data) trace.visible = !isHidden({ dataset: trace.meta });
  await Plotly.newPlot(chart, data, layout, CONFIG);
  showLines(chart); // a box may have changed meanwhile
  figure.classList.add("drawn");
}

function showLines(chart) {
  if (!chart.data) return;
  const wrong = chart.data.map((trace, i) => i).filter((i) => {
    const { visible, meta } = chart.data[i];
    return (visible !== false) === isHidden({ dataset: meta });
  });
  if (!wrong.length) return;
  const visible = wrong.map((i) => !isHidden({ dataset: chart.data[i].meta }));
  Plotly.restyle(chart, { visible }, wrong);
}

// --- sorting -------------------------------------------------------------------------------------

const ABSENT = /^(|–|—|-|failed|skipped|not run|not recorded|not measured)$/;
const NUMBER = /^([<>≤≥~×]\s*)?([-−+]?(\d[\d,]*(\.\d+)?|\.\d+|∞)(e[-+]?\d+)?)(?![\w.])/i;
const collator = new Intl.Collator("en", { numeric: true });

// What a cell sorts by: its own words, without the interval and the notes below them.
function keyOf(cell) {
  if (!cell) return null;
  if (cell.dataset.sort !== undefined) return cell.dataset.sort;
  const copy = cell.cloneNode(true);
  for (const aside of all(".ci, .note", copy)) aside.remove();
  const words = copy.textContent.trim();
  return ABSENT.test(words) || cell.matches(".failed, .skipped, .missing") ? null : words;
}

function numberOf(words) {
  const found = NUMBER.exec(words);
  if (!found) return NaN;
  return Number(found[2].replaceAll(",", "").replace("−", "-").replace("∞", "Infinity"));
}

// Rows that sort together: a row and the remarks below it.
function groups(body) {
  const found = [];
  for (const row of body.rows) {
    if (row.classList.contains("remark") && found.length) found.at(-1).push(row);
    else found.push([row]);
  }
  return found;
}

function sort(body, original, column, direction) {
  let order = original;
  if (direction) {
    const keyed = original.map((rows) => ({ rows, key: keyOf(rows[0].cells[column]) }));
    const known = keyed.filter(({ key }) => key !== null);
    const numeric = known.every(({ key }) => !Number.isNaN(numberOf(key)));
    const compare = numeric
      ? (a, b) => {
          const [x, y] = [numberOf(a.key), numberOf(b.key)];
          return x === y ? 0 : x - y; // two infinities differ by NaN
        }
      : (a, b) => collator.compare(a.key, b.key);
    known.sort((a, b) => direction * compare(a, b)); // stable
    order = [...known, ...keyed.filter(({ key }) => key === null)].map(({ rows }) => rows);
  }
  body.append(...order.flat());
}

function sortable(table) {
  const heads = table.tHead?.rows.length === 1 ? [...table.tHead.rows[0].cells] : [];
  const bodies = [...table.tBodies].map((body) => [body, groups(body)]);
  // A cell over several rows ties them together, one over several columns has no column.
  const tied = table.querySelector("th[colspan], [rowspan], tr:not(.remark) > td[colspan]");
  if (tied || !heads.length || !bodies.some(([, rows]) => rows.length > 1)) return;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[head.ariaSort];
      const direction = next === undefined ? "ascending" : next;
      for (const other of heads) other.removeAttribute("aria-sort");
      if (direction) head.ariaSort = direction;
      const sign = { ascending: 1, descending: -1 }[direction] ?? 0;
      for (const [body, original] of bodies) sort(body, original, column, sign);
    });
  });
}

// --- print ---------------------------------------------------------------------------------------

// Paper cannot be unfolded.
function unfoldForPrint() {
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    for (const details of folded) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
  });
}

toolbar();
charts();
for (const table of all("table")) sortable(table);
unfoldForPrint();
