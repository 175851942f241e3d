// The stage: one field with the boxes of its cells, to zoom, to pan, and to draw what the detector missed.

const camera = { scale: 1, x: 0, y: 0, field: null, fit: 1 }; // pixels of the page per pixel of the image; upper left corner
const pointers = new Map();
let drawing = null; // {from: [x, y]} while a box is drawn
const MOST_LABELS = 40; // boxes of a field whose names are always shown

function stageSize() {
  const view = $(".stage");
  return [view.clientWidth, view.clientHeight];
}

function fitField() {
  const field = state.fields[state.field], [width, height] = stageSize();
  if (!field?.preview || !width) return;
  camera.fit = Math.min(width / field.width, height / field.height);
  camera.scale = camera.fit;
  camera.x = (width - field.width * camera.scale) / 2;
  camera.y = (height - field.height * camera.scale) / 2;
  camera.field = state.field;
  moveLayer();
}

// Zoom by a factor around a point of the stage.
function zoomBy(factor, x = stageSize()[0] / 2, y = stageSize()[1] / 2) {
  const scale = Math.min(Math.max(camera.scale * factor, camera.fit), Math.max(8, 4 * camera.fit));
  camera.x = x - ((x - camera.x) * scale) / camera.scale;
  camera.y = y - ((y - camera.y) * scale) / camera.scale;
  camera.scale = scale;
  moveLayer();
}

function panBy(x, y) {
  camera.x += x;
  camera.y += y;
  moveLayer();
}

// Put the image and its boxes where the camera says, and keep the image in sight.
function moveLayer() {
  const field = state.fields[state.field], layer = $(".layer"), [width, height] = stageSize();
  if (!field || !layer) return;
  const [w, k] = [field.width * camera.scale, field.height * camera.scale];
  camera.x = w <= width ? (width - w) / 2 : Math.min(0, Math.max(width - w, camera.x));
  camera.y = k <= height ? (height - k) / 2 : Math.min(0, Math.max(height - k, camera.y));
  Object.assign(layer.style, { left: `${camera.x}px`, top: `${camera.y}px`, width: `${w}px`, height: `${k}px` });
  const zoomed = camera.scale > camera.fit * 1.01;
  $(".stage").classList.toggle("zoomed", zoomed);
  $(".stage").classList.toggle("pixels", camera.scale > 4);
  $(".zoom-level").textContent = `${Math.round((100 * camera.scale) / camera.fit)} %`;
  placeNames();
  drawScaleBar();
}

// Keep the names of near cells apart: each above its box, or else below it, or else hidden until the box is pointed at.
function placeNames() {
  if ($(".layer").classList.contains("dense")) return; // one name at a time is shown
  const boxes = [...$(".layer").querySelectorAll(".box[data-cell]")].sort((one, other) => other.classList.contains("chosen") - one.classList.contains("chosen"));
  const sizes = boxes.map((box) => [box.firstChild.offsetWidth, box.firstChild.offsetHeight]), taken = [];
  boxes.forEach((box, index) => {
    const [left, top, , bottom] = state.cells[box.dataset.cell].box.map((side) => side * camera.scale), [width, height] = sizes[index];
    const isFree = (y) => taken.every((other) => left + width <= other.left || other.right <= left || y + height <= other.top || other.bottom <= y);
    const y = [top - height, bottom].find((y) => camera.y + y >= 0 && isFree(y));
    box.classList.toggle("low", y === bottom);
    box.classList.toggle("unnamed", y === undefined);
    // With the borders of the boxes, on which the names stand.
    if (y !== undefined) taken.push({ left: left - 4, right: left + width + 4, top: y - 4, bottom: y + height + 4 });
  });
}

// Show a cell with some of its surroundings.
function bringIntoSight(id) {
  const cell = state.cells[id], [width, height] = stageSize();
  if (!cell || !width) return;
  if (camera.field !== state.field) fitField();
  const [left, top, right, bottom] = cell.box;
  const side = Math.max(right - left, bottom - top);
  const wanted = Math.min(width, height) / (4 * side);
  if (wanted > camera.scale) camera.scale = Math.min(wanted, 4 * camera.fit);
  camera.x = width / 2 - ((left + right) / 2) * camera.scale;
  camera.y = height / 2 - ((top + bottom) / 2) * camera.scale;
  moveLayer();
}

function placeBox(element, box) {
  const { width, height } = state.fields[state.field];
  const [left, top, right, bottom] = box;
  Object.assign(element.style, { left: `${(100 * left) / width}%`, top: `${(100 * top) / height}%`,
    width: `${(100 * (right - left)) / width}%`, height: `${(100 * (bottom - top)) / height}%` });
}

// Whether black stands out from a colour more than white does, by the relative luminance of WCAG.
function isLight(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(color.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179;
}

function boxElement(cell, tabbable) {
  const group = groupOf(cell), color = colorOf(group);
  const kind = `${group === REFUSED ? "refused" : ""} ${group === NOT_WHITE ? "none" : ""} ${isDoubtful(cell) ? "doubtful" : ""} ${cell.hand ? "hand" : ""}`;
  const how = cell.hand ? "✓" : group === REFUSED ? "" : percent(cell.probabilities[cell.label]);
  const label = group === REFUSED ? tr(`reason.${reasonOf(cell)}`) : `${typeName(group)} ${how}`;
  const element = h("button", { type: "button", class: `box ${kind}${cell.id === state.current ? " chosen" : ""}`, "data-cell": cell.id,
    "aria-label": cellSentence(cell), "aria-pressed": String(cell.id === state.current), tabindex: tabbable ? "0" : "-1",
    style: { "--color": color, "--ink": isLight(color) ? "#000" : "#fff" } }, h("b", {}, label));
  placeBox(element, cell.box);
  return element;
}

function drawStage() {
  const field = state.fields[state.field], shown = state.view === "field" && field;
  $(".field-pane").hidden = !shown;
  if (!shown) return;
  const layer = $(".layer"), focused = document.activeElement?.classList.contains("box") ? document.activeElement.dataset.cell : null;
  const cells = liveCells(state.field);
  const held = cells.find((cell) => cell.id === state.current) ?? cells[0];
  const content = field.preview ? [h("img", { class: "picture", src: field.preview, alt: field.file, draggable: "false" })] : [];
  const old = layer.querySelector(".picture");
  if (old && field.preview && old.getAttribute("src") === field.preview) content[0] = old;
  const current = currentCell();
  if (state.heat && current?.map && current.field === state.field) {
    const heat = heatMap(current.map);
    placeBox(heat, current.crop);
    content.push(heat);
  }
  content.push(...cells.map((cell) => boxElement(cell, cell === held)));
  if (state.pending?.field === state.field) {
    const box = h("div", { class: "box pending" });
    placeBox(box, state.pending.box);
    content.push(box);
  }
  layer.replaceChildren(...content);
  layer.classList.toggle("dense", cells.length > MOST_LABELS);
  if (focused !== null) layer.querySelector(`[data-cell="${focused}"]`)?.focus({ preventScroll: true });
  hideCard();
  if (camera.field !== state.field) fitField();
  else moveLayer();
  drawFieldBar(field);
}
parts.push(drawStage);

// The line under the stage: file, size, and the way to the other fields.
function drawFieldBar(field) {
  const readable = state.fields.flatMap((one, index) => (one.preview ? [index] : []));
  const position = readable.indexOf(state.field), counts = state.fields.map(() => 0);
  for (const cell of liveCells()) counts[cell.field]++;
  const step = (by) => () => openField(readable[(position + by + readable.length) % readable.length]);
  const choose = h("select", { "aria-label": tr("field.choose"), onchange: (event) => openField(Number(event.target.value)) },
    readable.map((index) => h("option", { value: index, selected: index === state.field },
      `${state.fields[index].file} (${counts[index]})`)));
  const several = readable.length > 1;
  const pages = field.pages > 1 ? `, ${tr("field.pages", { count: field.pages })}` : "";
  $(".field-bar").replaceChildren(
    ...(several ? [button("‹", step(-1), { "aria-label": tr("field.previous"), class: "previous" }), choose,
      button("›", step(1), { "aria-label": tr("field.next"), class: "next" })] : [h("span", { class: "file" }, field.file)]),
    h("span", { class: "size" }, field.preview ? `${whole(field.width)} × ${whole(field.height)} px${pages}` : ""),
    scaleControl(field));
  $(".draw").setAttribute("aria-pressed", String(Boolean(drawing || state.pending)));
}

function openField(index) {
  state.field = index;
  state.view = "field";
  state.current = liveCells(index)[0]?.id ?? null;
  camera.field = null;
  redraw();
}

// Micrometres per pixel, as the image or the visitor says.
function scaleOf(field) {
  return state.scale ?? field.scale;
}

function scaleControl(field) {
  const input = h("input", { type: "number", min: "0.005", max: "20", step: "any", value: scaleOf(field) ?? "", "aria-label": tr("scale.label"),
    onchange: (event) => {
      const value = Number(event.target.value);
      state.scale = value > 0 ? value : null;
      save();
      drawScaleBar();
    } });
  return h("label", { class: "scale-input" }, tr("scale.label"), input);
}

// A bar of a round length, where the scale is known.
function drawScaleBar() {
  const bar = $(".scale-bar"), field = state.fields[state.field], scale = field && scaleOf(field);
  bar.hidden = !scale;
  if (!scale) return;
  const most = (140 * scale) / camera.scale; // micrometres in 140 pixels of the page
  const length = [500, 200, 100, 50, 20, 10, 5, 2, 1, 0.5].find((one) => one <= most) ?? 0.5;
  bar.style.width = `${(length / scale) * camera.scale}px`;
  bar.textContent = `${length} µm`;
}

// The crop of the cell under the pointer or the focus, enlarged, with what is known of it.
function showCard(box) {
  const cell = state.cells[box.dataset.cell], card = $(".card"), stage = $(".stage");
  if (!cell || pointers.size || innerWidth < 700) return;
  const verdict = verdictOf(cell);
  card.replaceChildren(cropView(cell, 144), h("div", {}, h("strong", {}, verdict.title),
    cell.known && !cell.hand ? h("p", {}, percent(cell.probabilities[cell.label])) : null, facts(cell)));
  card.hidden = false;
  const [around, at] = [stage.getBoundingClientRect(), box.getBoundingClientRect()];
  const right = at.right - around.left + 10, space = around.width - right > card.offsetWidth;
  card.style.left = `${space ? right : Math.max(4, at.left - around.left - card.offsetWidth - 10)}px`;
  card.style.top = `${Math.max(4, Math.min(at.top - around.top, around.height - card.offsetHeight - 4))}px`;
}

function hideCard() {
  $(".card").hidden = true;
}

function imagePoint(event) {
  const { left, top } = $(".stage").getBoundingClientRect();
  return [(event.clientX - left - camera.x) / camera.scale, (event.clientY - top - camera.y) / camera.scale];
}

function boxBetween([x, y], [u, v]) {
  const { width, height } = state.fields[state.field];
  const within = (value, most) => Math.min(most, Math.max(0, value));
  return [within(Math.min(x, u), width), within(Math.min(y, v), height), within(Math.max(x, u), width), within(Math.max(y, v), height)];
}

// Start to draw what the detector missed: a box of a usual size lies ready, for those who move it by keys.
function startDrawing() {
  if (drawing || state.pending) return cancelDrawing();
  const cells = liveCells(state.field), sides = cells.map(({ box }) => box[2] - box[0]).sort((one, other) => one - other);
  const [width, height] = stageSize(), field = state.fields[state.field];
  const side = sides[sides.length >> 1] ?? Math.min(field.width, field.height) / 6;
  const [x, y] = [(width / 2 - camera.x) / camera.scale, (height / 2 - camera.y) / camera.scale];
  drawing = {};
  state.pending = { field: state.field, box: boxBetween([x - side / 2, y - side / 2], [x + side / 2, y + side / 2]) };
  $(".stage").classList.add("drawing");
  redraw([]);
  $(".stage").focus();
  announce(tr("said.draw"));
}

function cancelDrawing() {
  drawing = null;
  delete state.pending;
  $(".stage").classList.remove("drawing");
  redraw([]);
}

function finishDrawing(label) {
  const { field, box } = state.pending;
  cancelDrawing();
  if (box[2] - box[0] >= 2 && box[3] - box[1] >= 2) addDrawn(field, box.map((side) => Math.round(side)), label);
}

// Move the box that is being drawn, or with Shift its lower right corner.
function nudge(x, y, resize) {
  const step = 4 / camera.scale, [left, top, right, bottom] = state.pending.box;
  state.pending.box = resize
    ? boxBetween([left, top], [Math.max(left + 2, right + x * step), Math.max(top + 2, bottom + y * step)])
    : [left + x * step, top + y * step, right + x * step, bottom + y * step];
  redraw([]);
}

function listenToStage() {
  const stage = $(".stage");
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { left, top } = stage.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 400), event.clientX - left, event.clientY - top);
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => {
    const { left, top } = stage.getBoundingClientRect();
    // Not the event's target: the first click has drawn the boxes anew.
    const box = document.elementFromPoint(event.clientX, event.clientY)?.closest(".box[data-cell]");
    if (box) bringIntoSight(Number(box.dataset.cell));
    else zoomBy(2, event.clientX - left, event.clientY - top);
  });
  stage.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (drawing) {
      drawing.from = imagePoint(event);
      event.preventDefault();
    }
    hideCard();
  });
  stage.addEventListener("pointermove", (event) => movePointer(event, stage));
  for (const kind of ["pointerup", "pointercancel", "pointerleave"])
    stage.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (drawing) delete drawing.from;
    });
  stage.addEventListener("click", (event) => {
    const box = event.target.closest(".box[data-cell]");
    if (box && !drawing) chooseCell(Number(box.dataset.cell), { focus: true });
  });
  stage.addEventListener("pointerover", (event) => {
    const box = event.target.closest(".box[data-cell]");
    if (box && event.pointerType === "mouse") showCard(box);
    else hideCard();
  });
  stage.addEventListener("focusin", (event) => event.target.matches(".box:focus-visible") && showCard(event.target));
  stage.addEventListener("focusout", hideCard);
  new ResizeObserver(() => {
    camera.field = null;
    if (state.view === "field") fitField();
  }).observe(stage);
}

function movePointer(event, stage) {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = [event.clientX, event.clientY];
  if (drawing?.from) {
    state.pending = { field: state.field, box: boxBetween(drawing.from, imagePoint(event)) };
    redraw([]);
  } else if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const spread = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const { left, top } = stage.getBoundingClientRect();
    zoomBy(spread(now) / Math.max(1, spread(before)), (now[0] + other[0]) / 2 - left, (now[1] + other[1]) / 2 - top);
  } else if (camera.scale > camera.fit * 1.01) panBy(now[0] - before[0], now[1] - before[1]);
  pointers.set(event.pointerId, now);
}
