// The panel of one cell: the verdict, the crop enlarged, its attributes, and the types to choose from.

const HEAT_GRID = 96;

// A square of the image around a cell, `side` pixels of the page wide; beyond the image it is empty.
function cropView(cell, side) {
  const field = state.fields[cell.field];
  const [left, top, right] = cell.crop;
  const zoom = side / (right - left);
  const view = h("div", { class: "crop", role: "img", "aria-label": cellSentence(cell), style: { width: `${side}px` } });
  if (field.preview) {
    const picture = h("img", { src: field.preview, alt: "", draggable: "false" });
    Object.assign(picture.style, { left: `${-left * zoom}px`, top: `${-top * zoom}px`, width: `${field.width * zoom}px`,
      height: `${field.height * zoom}px` });
    view.append(picture);
  }
  if (state.heat && cell.map) view.append(heatMap(cell.map));
  return view;
}

// What influenced the answer, as a transparent picture of the crop. The values of the map lie at 0, 1, ... on either
// axis and the crop ends at PAGE.mapSide; what lies between is interpolated, and all fades out towards the border.
function heatMap(map) {
  const canvas = h("canvas", { class: "heat", width: HEAT_GRID, height: HEAT_GRID, "aria-hidden": "true" });
  const pen = canvas.getContext("2d"), pixels = pen.createImageData(HEAT_GRID, HEAT_GRID);
  const most = Math.max(1e-6, ...map.flat());
  const value = (row, column) => Math.max(0, map[row]?.[column] ?? 0) / most;
  for (let y = 0; y < HEAT_GRID; y++)
    for (let x = 0; x < HEAT_GRID; x++) {
      const [u, v] = [x, y].map((place) => ((place + 0.5) / HEAT_GRID) * PAGE.mapSide);
      const [column, row] = [Math.floor(u), Math.floor(v)];
      const [right, down] = [u - column, v - row].map((share) => share * share * (3 - 2 * share));
      const strength = (1 - down) * ((1 - right) * value(row, column) + right * value(row, column + 1))
        + down * ((1 - right) * value(row + 1, column) + right * value(row + 1, column + 1));
      const edge = Math.min(x, y, HEAT_GRID - 1 - x, HEAT_GRID - 1 - y) / (0.15 * HEAT_GRID);
      pixels.data.set([255, 220 * (1 - strength), 0, 170 * strength * Math.min(1, edge)], 4 * (y * HEAT_GRID + x));
    }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

// One cell in a sentence, for those who hear the page.
function cellSentence(cell) {
  const number = cellNumber(cell), group = groupOf(cell);
  if (group === REFUSED) return `${number}: ${tr(`reason.${reasonOf(cell)}`)}`;
  const how = cell.hand ? tr("cell.by_hand") : percent(cell.probabilities[cell.label]);
  return `${number}: ${typeName(group)}, ${how}${isDoubtful(cell) ? `, ${tr("cell.doubtful")}` : ""}`;
}

// The title and the advice of the verdict on a cell.
function verdictOf(cell) {
  if (cell.hand)
    return { kind: "hand", title: capital(typeName(groupOf(cell))), advice: tr(cell.drawn ? "verdict.drawn" : "verdict.hand") };
  const [[first, p], [second, q] = [null, 0]] = ranking(cell);
  if (!cell.known) {
    const reason = reasonOf(cell);
    return { kind: "refused", title: tr(`verdict.${reason}`), advice: tr(`verdict.${reason}_advice`), guess: reason !== "smear" };
  }
  if (p >= DOUBTFUL_BELOW)
    return { kind: "sure", title: capital(typeName(first)), advice: tr("verdict.probability", { probability: percent(p) }) };
  const names = { type: typeName(first), first: capital(typeName(first)), p: percent(p), second: typeName(second ?? first), q: percent(q) };
  const close = q >= p / 2;
  return { kind: "doubtful", title: tr(close ? "verdict.one_of_two" : "verdict.perhaps", { type: typeName(first) }),
    advice: tr(close ? "verdict.one_of_two_advice" : "verdict.perhaps_advice", names) };
}

// Nucleus, granules, chromatin and the others, as far as the model tells them, each in a line of its own.
function attributeLines(cell) {
  return Object.entries(cell.attributes ?? {}).map(([name, value]) =>
    h("li", {}, h("span", { class: "name" }, named("attributes", name)), " ", named("values", `${name}.${value}`)));
}

// Stage, second guess and attributes.
function facts(cell) {
  const lines = [];
  const stage = stageOf(cell), second = ranking(cell)[1];
  if (stage) lines.push(h("li", {}, h("span", { class: "name" }, tr("cell.stage")), " ", named("stages", stage)));
  if (second && second[1] >= 0.01 && !cell.hand && cell.known)
    lines.push(h("li", {}, h("span", { class: "name" }, tr("cell.second")), " ", `${typeName(second[0])} ${percent(second[1])}`));
  lines.push(...attributeLines(cell));
  return lines.length ? h("ul", { class: "facts" }, lines) : null;
}

// Bars of the types of 1 % and more; the others share one line.
function probabilityBars(cell) {
  const shown = ranking(cell).filter(([, p]) => p >= 0.01), rest = 1 - shown.reduce((sum, [, p]) => sum + p, 0);
  const line = (name, p, color) => h("li", {}, h("span", { class: "name" }, name),
    h("span", { class: "track", "aria-hidden": "true" }, h("i", { style: { width: `${100 * p}%`, background: color } })),
    h("span", { class: "number" }, percent(p)));
  return h("ul", { class: "probabilities", "aria-label": tr("cell.probabilities") },
    shown.map(([label, p]) => line(typeName(label), p, colorOf(label))),
    rest >= 0.005 && shown.length < PAGE.labels.length ? line(tr("cell.others"), rest, "var(--quiet)") : null);
}

function colorOf(label) {
  return PAGE.colors[label] ?? "#666666";
}

// The buttons that correct: a type each, "not a white cell", and the stages of the type that is chosen.
function typeButtons(cells) {
  const groups = new Set(cells.map(groupOf)), only = groups.size === 1 ? [...groups][0] : null;
  const act = (label) => () => correct(label);
  const choice = (label, key, name) => h("button", { type: "button", class: "type", onclick: act(label),
    "aria-pressed": String(only === (label ?? NOT_WHITE)), "aria-keyshortcuts": key },
  h("i", { class: "dot", "aria-hidden": "true", style: { background: colorOf(label) } }), capital(name), h("kbd", {}, key));
  const rows = [h("div", { class: "types", role: "group", "aria-label": tr("cell.choose") },
    PAGE.order.map((label, index) => choice(label, String(index + 1), typeName(label))), choice(null, "0", tr("group.not_white")))];
  const stages = only ? PAGE.stagesOf[only] : null;
  if (stages && !state.pending) {
    const held = new Set(cells.map(stageOf));
    rows.push(h("div", { class: "stages", role: "group", "aria-label": tr("cell.stage") }, stages.map((stage) =>
      h("button", { type: "button", "aria-pressed": String(held.size === 1 && held.has(stage)),
        onclick: () => assign(cells.map((cell) => cell.id), only, stage) }, capital(named("stages", stage))))));
  }
  return rows;
}

// The cells that a key or a button corrects: those selected, or the current one.
function targets() {
  const ids = [...state.selected].filter((id) => !state.cells[id].deleted);
  return ids.length ? ids : state.current === null ? [] : [state.current];
}

// Correct the targets, or give the box that was drawn its type.
function correct(label) {
  if (state.pending) return finishDrawing(label);
  const ids = targets();
  if (!ids.length) return;
  const next = state.view === "gallery" ? neighbourAfter(ids) : state.current;
  const focused = $(".panes").contains(document.activeElement);
  assign(ids, label);
  state.selected.clear();
  chooseCell(next ?? state.current, { focus: focused });
}

// Take the model's guess of the targets as right.
function confirmGuess() {
  const ids = targets().filter((id) => !state.cells[id].drawn);
  const next = state.view === "gallery" ? neighbourAfter(ids) : state.current;
  const focused = $(".panes").contains(document.activeElement);
  const changed = edit(ids, (cell) => ({ hand: cell.hand ?? { label: cell.label, stage: cell.stage ?? null } }));
  if (changed.length) announce(tr("said.confirmed", { count: changed.length }));
  state.selected.clear();
  chooseCell(next ?? state.current, { focus: focused });
}

// Make a cell the current one, everywhere.
function chooseCell(id, { focus = false, open = false } = {}) {
  const before = state.current;
  state.current = id;
  if (open) state.view = "field";
  if (id !== null && (open || state.view === "field")) state.field = state.cells[id].field;
  redraw(open ? null : [before, id].filter((cell) => cell !== null));
  if (open) bringIntoSight(id);
  if (focus) focusCell(id);
}

function confirmButton(cell) {
  return button(tr("cell.confirm_one", { type: typeName(cell.label) }), confirmGuess, { class: "confirm" });
}

// The guess of a refused cell, out of sight until somebody asks for it.
function guessParts(cell) {
  const [[label, p]] = ranking(cell);
  return h("details", { class: "guess" }, h("summary", {}, tr("verdict.show_guess")),
    h("p", {}, tr("verdict.guess", { type: typeName(label), p: percent(p) })), probabilityBars(cell), confirmButton(cell));
}

function description(label) {
  const type = PAGE.types[label];
  if (!type) return null;
  const range = type.normal ? tr("verdict.normal_range", { low: type.normal[0], high: type.normal[1] }) : null;
  return h("details", { class: "description" }, h("summary", {}, tr("verdict.looks", { type: typeName(label) })),
    h("p", {}, type.description[language()], range ? ` ${range} (` : null,
      range ? h("a", { href: PAGE.source, target: "_blank", rel: "noopener" }, "MedlinePlus") : null, range ? ")" : null));
}

function drawCellPanel() {
  const panel = $(".cell");
  const field = state.fields[state.field];
  let content;
  if (state.pending) {
    content = [h("h2", {}, tr("cell.which")), h("p", {}, tr("cell.which_advice")), typeButtons([])];
    content.push(button(tr("cell.cancel"), cancelDrawing));
  } else if (state.selected.size > 1) {
    const cells = [...state.selected].map((id) => state.cells[id]);
    content = [h("h2", {}, tr("cell.selected", { count: cells.length })), h("p", {}, tr("cell.selected_advice")),
      typeButtons(cells), button(tr("cell.confirm"), confirmGuess, { class: "confirm", "aria-keyshortcuts": "Enter" })];
  } else if (currentCell()) content = oneCell(currentCell());
  else content = emptyPanel(field);
  panel.replaceChildren(...content.flat());
}

function oneCell(cell) {
  const verdict = verdictOf(cell), name = state.fields[cell.field].file;
  const place = h("p", { class: "place" }, `${name}, ${tr("cell.number", { number: cellNumber(cell), count: liveCells(cell.field).length })}`);
  const head = h("div", { class: `verdict ${verdict.kind}`, role: "status" }, h("h2", {}, verdict.title), h("p", {}, verdict.advice),
    verdict.kind === "refused" && reasonOf(cell) === "stain" ? h("p", {}, tr("verdict.stain_help")) : null,
    verdict.guess ? guessParts(cell) : null);
  const heat = cell.map ? h("label", { class: "switch" }, h("input", { type: "checkbox", checked: state.heat,
    onchange: (event) => { state.heat = event.target.checked; redraw([]); $(".cell .switch input")?.focus(); } }), tr("cell.heat")) : null;
  const bars = cell.known && !cell.hand ? probabilityBars(cell) : null;
  const confirm = isDoubtful(cell) ? confirmButton(cell) : null;
  return [head, h("div", { class: "look" }, h("div", {}, cropView(cell, 168), heat), h("div", { class: "tell" }, bars, facts(cell))),
    place, h("div", { class: "correct" }, confirm, typeButtons([cell]),
      cell.drawn ? button(tr("cell.remove"), () => edit([cell.id], () => ({ deleted: true }))) : null),
    description(cell.hand ? cell.hand.label : cell.known ? cell.label : null)].filter(Boolean);
}

// The verdict on an image without cells.
function emptyPanel(field) {
  if (!field) return [];
  const unreadable = field.status === "unreadable";
  const key = unreadable ? "unreadable" : liveCells(state.field).length ? "none_chosen" : "empty";
  const advice = unreadable ? `${field.file}: ${field.reason[language()]}` : tr(`verdict.${key}_advice`);
  return [h("div", { class: `verdict ${key}`, role: "status" }, h("h2", {}, tr(`verdict.${key}`)), h("p", {}, advice))];
}
parts.push(drawCellPanel);
