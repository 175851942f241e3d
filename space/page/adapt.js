// The answers of a copy of the model that was adapted to these images, beside those of the model itself.

const ANSWER = ["label", "probabilities", "known", "remark", "stage", "attributes", "map"];

function modelAnswer(cell) {
  return Object.fromEntries(ANSWER.map((key) => [key, cell[key]]));
}

function mayAdapt() {
  return PAGE.canAdapt && imagesAreThere && !state.adapted && state.cells.filter((cell) => !cell.drawn).length >= PAGE.minAdapt;
}

// Take the adapted model's answers to the same cells.
function takeAdapted(fields) {
  const found = state.cells.filter((cell) => !cell.drawn), answers = fields.flatMap((field) => field.cells);
  if (answers.length !== found.length) return announce(tr("adapt.failed"));
  state.adapted = { before: found.map(modelAnswer), after: answers.map(modelAnswer) };
  showAdapted(true);
  announce(tr("adapt.done", adaptedFigures()));
}

function showAdapted(on) {
  const found = state.cells.filter((cell) => !cell.drawn);
  found.forEach((cell, index) => Object.assign(cell, state.adapted[on ? "after" : "before"][index]));
  state.adapted.on = on;
  save();
  redraw();
}

function takeBackAdapting() {
  showAdapted(false);
  state.adapted = null;
  save();
  redraw();
  announce(tr("adapt.taken_back"));
}

function adaptedFigures() {
  const { before, after } = state.adapted, says = (answer) => (answer.known ? answer.label : REFUSED);
  const known = (answers) => whole(answers.filter((answer) => answer.known).length);
  return { changed: whole(before.filter((answer, index) => says(answer) !== says(after[index])).length), cells: whole(before.length),
    before: known(before), after: known(after) };
}

// The differential that the model gave before, with the same corrections by hand.
function beforeAdapting() {
  if (!state.adapted?.on) return null;
  let index = 0;
  return differential(state.cells.map((cell) => (cell.drawn ? cell : { ...cell, ...state.adapted.before[index++] })).filter((cell) => !cell.deleted));
}

function drawAdapted() {
  const banner = $(".adapted");
  banner.hidden = !state.adapted;
  if (banner.hidden) return;
  const choice = (on, key) => h("button", { type: "button", "aria-pressed": String(state.adapted.on === on), onclick: () => showAdapted(on) }, tr(key));
  banner.replaceChildren(h("p", {}, tr("adapt.done", adaptedFigures())),
    h("div", { class: "segments", role: "group", "aria-label": tr("adapt.show") }, choice(false, "adapt.before"), choice(true, "adapt.after")),
    button(tr("adapt.take_back"), takeBackAdapting, { class: "take-back" }));
}
parts.push(drawAdapted);
