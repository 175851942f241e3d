// The images, their cells, what was corrected by hand, and the way back.

const STORED_WORK = "wbc-bench";
const DOUBTFUL_BELOW = PAGE.confident;

const state = {
  fields: [], // as `space/bench.py` describes them
  cells: [], // of all fields; the index is a cell's id
  history: [], // lists of {id, before, after}
  done: 0, // of the history
  current: null, // id of a cell
  selected: new Set(),
  field: 0,
  view: "field", // "field", "gallery", "files"
  file: null, // the field that the gallery is confined to
  reviewFirst: false,
  heat: false,
  adapted: null, // {before, after}: what the model said of each cell
  scale: null, // micrometres per pixel, by the visitor
  leftOut: false, // more images than are answered in one go
  example: false,
  sample: "",
  reader: "",
};

// Take the answers of the server.
function takeFields(fields, example = false) {
  Object.assign(state, { fields, cells: [], history: [], done: 0, current: null, field: 0, file: null });
  Object.assign(state, { adapted: null, example, reviewFirst: false, leftOut: false, sample: "" });
  numbers = null;
  state.selected.clear();
  fields.forEach((field, index) => {
    for (const cell of field.cells)
      state.cells.push({ ...cell, id: state.cells.length, field: index, hand: null, deleted: false, drawn: false });
  });
  const read = fields.filter((field) => field.preview);
  state.view = read.length > 1 ? "gallery" : read.length ? "field" : "files";
  state.field = Math.max(0, fields.findIndex((field) => field.preview));
  const first = liveCells().find((cell) => cell.field === state.field && cell.known) ?? liveCells()[0];
  state.current = first ? first.id : null;
  if (first) state.field = first.field;
  save();
}

function liveCells(field = null) {
  return state.cells.filter((cell) => !cell.deleted && (field === null || cell.field === field));
}

// The number of a cell within its field, from 1.
let numbers = null;
function cellNumber(cell) {
  if (!numbers) {
    const counts = state.fields.map(() => 0);
    numbers = new Map(liveCells().map((one) => [one.id, ++counts[one.field]]));
  }
  return numbers.get(cell.id);
}

function currentCell() {
  return state.current === null ? null : state.cells[state.current];
}

// The group that a cell belongs to: a type, NOT_WHITE or REFUSED.
function groupOf(cell) {
  if (cell.hand) return cell.hand.label ?? NOT_WHITE;
  return cell.known ? cell.label : REFUSED;
}

function isDoubtful(cell) {
  return !cell.hand && cell.known && cell.probabilities[cell.label] < DOUBTFUL_BELOW;
}

function needsReview(cell) {
  return !cell.hand && (!cell.known || isDoubtful(cell));
}

function stageOf(cell) {
  if (cell.hand) return cell.hand.stage;
  return cell.known ? cell.stage : null;
}

// The types by falling probability: [label, probability]. Empty for a cell that was drawn.
function ranking(cell) {
  return Object.entries(cell.probabilities ?? {}).sort((one, other) => other[1] - one[1]);
}

// Why a cell is refused, in a word: "focus", "stain", "smear" or "both".
function reasonOf(cell) {
  const reasons = { "out of focus": "focus", "out of focus or unfamiliar stain": "focus", "unfamiliar stain": "stain" };
  return reasons[cell.remark] ?? (cell.remark?.startsWith("out of focus") ? "both" : "smear");
}

function snapshot(cell) {
  return { hand: cell.hand, deleted: cell.deleted };
}

// Change cells by hand; `after` gives what changes of a cell.
function edit(ids, after) {
  const changes = [];
  for (const id of ids) {
    const before = snapshot(state.cells[id]);
    const next = { ...before, ...after(state.cells[id]) };
    if (JSON.stringify(before) !== JSON.stringify(next)) changes.push({ id, before, after: next });
  }
  if (!changes.length) return [];
  state.history.length = state.done;
  state.history.push(changes);
  state.done++;
  return applyChanges(changes, "after");
}

function applyChanges(changes, side) {
  for (const change of changes) Object.assign(state.cells[change.id], change[side]);
  numbers = null;
  const ids = changes.map((change) => change.id);
  if (currentCell()?.deleted) state.current = null;
  save();
  redraw(ids);
  return ids;
}

function undo() {
  if (!state.done) return;
  applyChanges(state.history[--state.done], "before");
  announce(tr("said.undone"));
}

function redo() {
  if (state.done === state.history.length) return;
  applyChanges(state.history[state.done++], "after");
  announce(tr("said.redone"));
}

// Give cells a type by hand: a label, or null for what is no white cell.
function assign(ids, label, stage = null) {
  const changed = edit(ids, (cell) => ({
    // A type that the model named keeps its stage.
    hand: { label, stage: stage ?? (label !== null && label === cell.label ? cell.stage ?? null : null) },
  }));
  if (changed.length)
    announce(tr("said.moved", { count: changed.length, type: typeName(label ?? NOT_WHITE) }));
  return changed;
}

// Add a cell that the detector missed.
function addDrawn(field, box, label) {
  const id = state.cells.length;
  const side = 1.5 * Math.max(box[2] - box[0], box[3] - box[1]);
  const [x, y] = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  const crop = [x - side / 2, y - side / 2, x + side / 2, y + side / 2];
  state.cells.push({ id, field, box, crop, label: null, probabilities: null, known: false, remark: null, stage: null,
    attributes: {}, map: null, tile: null, hand: null, deleted: true, drawn: true });
  state.current = id;
  edit([id], () => ({ deleted: false, hand: { label, stage: null } }));
  announce(tr("said.drawn", { type: typeName(label ?? NOT_WHITE) }));
}

// Keep the work in this tab of this browser: it survives a reload, and nothing else keeps it.
let writing = null;
function save() {
  clearTimeout(writing);
  writing = setTimeout(writeWork, 200);
}

function writeWork() {
  clearTimeout(writing);
  if (state.example) return;
  const { selected, pending, ...kept } = state;
  try {
    storage("sessionStorage")?.setItem(STORED_WORK, JSON.stringify(kept));
  } catch {
    announce(tr("said.unsaved")); // more than the browser keeps for a tab
  }
}
addEventListener("pagehide", writeWork);

function restore() {
  const stored = storage("sessionStorage")?.getItem(STORED_WORK);
  if (!stored) return false;
  Object.assign(state, JSON.parse(stored));
  return state.fields.length > 0;
}

function clearWork() {
  state.example = true; // which is not kept
  storage("sessionStorage")?.removeItem(STORED_WORK);
  Object.assign(state, { reader: "", scale: null });
}
