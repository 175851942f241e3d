// The page around the bench: dropping files, the line of tools, keys, and the way to the server.

let raise = null; // tells the server of an event: (name) => void
let busy = false;
let imagesAreThere = false; // at the upload field, for adapting; after a reload they are not

const EXPORTS = {
  report: async () => downloadFile("white-blood-cells.html", await reportFile(), "text/html"),
  csv: async () => downloadFile("white-blood-cells.csv", cellTable(), "text/csv"),
  png: exportPictures,
  coco: async () => downloadFile("white-blood-cells-coco.json", cocoFile(), "application/json"),
  crops: exportCrops,
};

function uploadInput() {
  return document.querySelector("#files input[type=file]");
}

// Hand files to Gradio's upload field, which is out of sight.
function hand(files) {
  const input = uploadInput();
  if (!files.length || !input || busy) return;
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  input.files = transfer.files;
  setBusy(true);
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

function setBusy(on) {
  busy = on;
  document.body.classList.toggle("busy", on);
}

// The files are on the server: one image is answered together with those of others, several in a job of their own.
function uploaded(files) {
  const one = files?.length === 1 && !files[0].orig_name.toLowerCase().endsWith(".zip");
  if (files?.length) raise(one ? "one" : "many");
  else setBusy(false);
}

// The answers are there.
function answered(answer) {
  setBusy(false);
  if (!answer) return;
  imagesAreThere = true;
  takeFields(answer.fields);
  state.leftOut = answer.leftOut;
  camera.field = null;
  redraw();
  announce(summary());
  document.querySelector("#bench .start").open = false;
  document.querySelector("#bench .shell").scrollIntoView({ block: "start" });
}

function adapted(answer) {
  setBusy(false);
  if (answer) takeAdapted(answer.fields);
}

function hasGallery() {
  return state.cells.length > 1 || state.fields.length > 1;
}

function drawTools() {
  document.querySelector("#bench .shell").classList.toggle("answered", !state.example);
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = tr(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", tr(element.dataset.label));
  for (const element of document.querySelectorAll("[data-language]"))
    element.setAttribute("aria-pressed", String(element.dataset.language === language()));
  const views = ["gallery", "field", "files"].filter((view) => view !== "gallery" || hasGallery());
  $(".views").replaceChildren(...views.map((view) => h("button", { type: "button", "data-view": view, "aria-pressed": String(state.view === view),
    onclick: () => showView(view) }, tr(`view.${view}`))));
  for (const field of document.querySelectorAll("#bench .export input")) if (field !== document.activeElement) field.value = state[field.name];
  $(".undo").disabled = !state.done;
  $(".redo").disabled = state.done === state.history.length;
  $(".adapt").hidden = !mayAdapt();
  $(".summary").textContent = summary();
  $(".example-note").hidden = !state.example;
}
parts.unshift(drawTools);

function summary() {
  const cells = liveCells(), bad = state.fields.filter((field) => field.status === "unreadable").length;
  const values = { images: whole(state.fields.length - bad), bad: whole(bad), cells: whole(cells.length), review: whole(cells.filter(needsReview).length) };
  return tr(bad ? "tools.summary_bad" : "tools.summary", values) + (state.leftOut ? tr("tools.left_out", { images: whole(state.fields.length) }) : "");
}

function showView(view) {
  state.view = view;
  if (view === "field" && currentCell()) state.field = currentCell().field;
  redraw();
  if (view === "field" && currentCell() && camera.field !== state.field) bringIntoSight(state.current);
  $(`.views [data-view="${view}"]`)?.focus();
}

async function exportAs(kind) {
  const menu = $(".export");
  menu.open = false;
  menu.querySelector("summary").focus();
  announce(tr("said.exporting"));
  try {
    await EXPORTS[kind]();
    announce(tr("said.exported"));
  } catch {
    announce(tr("said.export_failed")); // a preview that the server has deleted
    $(".export-failed").hidden = false;
  }
}

// Keys of the bench. Those of letters and digits work only while the focus is in it.
function pressKey(event) {
  if (event.target.matches("input:not([type=checkbox]), select, textarea") || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, command = event.ctrlKey || event.metaKey;
  if (command && key === "z") act(event, event.shiftKey ? redo : undo);
  else if (command && key === "y") act(event, redo);
  else if (command) return;
  else if (state.pending && key.startsWith("Arrow")) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    act(event, () => nudge(x, y, event.shiftKey));
  } else if (key.startsWith("Arrow")) arrow(event, key);
  else if (/^[0-9]$/.test(key) && (key === "0" || PAGE.order[key - 1])) act(event, () => correct(key === "0" ? null : PAGE.order[key - 1]));
  else if (key === "u") act(event, event.shiftKey ? redo : undo);
  else if (key === "r") act(event, redo);
  else if (key === "g" || key === "f") act(event, () => openPane(key));
  else if (key === "d" && state.view === "field") act(event, startDrawing);
  else if (key === "+" || key === "=") act(event, () => zoomBy(1.4));
  else if (key === "-") act(event, () => zoomBy(1 / 1.4));
  else if (key === "Escape") act(event, escape);
  else if (key === "Enter" && event.target.matches(".tile, .box")) act(event, confirmOrOpen);
  else if (key === " " && event.target.matches(".tile")) act(event, () => toggleSelected(state.current));
}

function act(event, action) {
  event.preventDefault();
  action();
}

function openPane(key) {
  if (key === "g" && !hasGallery()) return;
  const opened = key === "f" && currentCell();
  if (opened) chooseCell(state.current, { open: true, focus: true });
  else {
    showView(key === "g" ? "gallery" : "field");
    if (state.current !== null) focusCell(state.current);
  }
}

// Enter takes the guess of doubtful cells, and opens the field of others: the guess of a refused one is out of sight.
function confirmOrOpen() {
  if (targets().some((id) => isDoubtful(state.cells[id]))) confirmGuess();
  else chooseCell(state.current, { open: true, focus: true });
}

function escape() {
  if (state.pending) cancelDrawing();
  else if (state.selected.size) selectOnly([]);
  else if (state.view === "field" && state.fields.length > 1) openPane("g");
}

function arrow(event, key) {
  if (event.target.matches(".stage")) {
    const [x, y] = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[key];
    return act(event, () => panBy(x, y));
  }
  if (!event.target.matches(".tile, .box")) return;
  const next = neighbour(key);
  event.preventDefault();
  if (next === undefined) return;
  if (event.shiftKey && state.view === "gallery") extendSelection(next);
  else if (state.selected.size) selectOnly([]);
  chooseCell(next, { focus: true });
}

function listenToDrops(shell) {
  const input = shell.querySelector(".drop input");
  // The types are named so that phones convert theirs; dropped files of other types get an answer too.
  input.accept = `${PAGE.imageTypes},.zip`;
  input.addEventListener("change", () => {
    hand([...input.files]);
    input.value = "";
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    shell.querySelector(".drop").classList.add("over");
  });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => shell.querySelector(".drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    hand([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => hand([...event.clipboardData.files].filter((file) => file.type.startsWith("image/"))));
}

// Start the page in its element; `trigger` raises an event in Gradio.
function start(element, trigger) {
  raise = trigger;
  useStoredLanguage();
  const shell = element.querySelector(".shell");
  for (const choice of document.querySelectorAll("[data-language]"))
    choice.addEventListener("click", () => setLanguage(choice.dataset.language));
  shell.addEventListener("keydown", pressKey);
  listenToDrops(shell);
  listenToStage();
  listenToGallery();
  shell.querySelector(".offers").addEventListener("click", (event) => {
    const chosen = event.target.closest("button[data-index]");
    if (!chosen || busy) return;
    setBusy(true);
    trigger("example", { index: Number(chosen.dataset.index) });
  });
  const on = (selector, action) => shell.querySelector(selector).addEventListener("click", action);
  on(".stop", () => trigger("stop"));
  on(".undo", undo);
  on(".redo", redo);
  on(".draw", startDrawing);
  on(".zoom-in", () => zoomBy(1.4));
  on(".zoom-out", () => zoomBy(1 / 1.4));
  on(".zoom-fit", fitField);
  on(".adapt", () => {
    setBusy(true);
    trigger("adapt");
  });
  on(".clear", () => {
    clearWork();
    imagesAreThere = false;
    shell.querySelector(".start").open = true;
    takeFields(PAGE.example, true);
    camera.field = null;
    redraw();
  });
  for (const item of shell.querySelectorAll("[data-export]")) item.addEventListener("click", () => exportAs(item.dataset.export));
  for (const field of shell.querySelectorAll(".export input"))
    field.addEventListener("input", () => {
      state[field.name] = field.value;
      save();
    });
  if (restore()) shell.querySelector(".start").open = false;
  else takeFields(PAGE.example, true);
  redraw();
  fitField();
}

preferStoredLanguage();
window.wbc = { start, uploaded, answered, adapted, failed: () => setBusy(false), corrections };

// The corrections by hand as the server takes them: for each cell that the model found, a type or null.
function corrections() {
  return state.cells.filter((cell) => !cell.drawn).map((cell) => cell.hand?.label ?? null);
}
