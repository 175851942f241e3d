// The gallery: the cells of all fields by type. A cell is moved by dragging it, or by a key for all that are selected.

const TILE = 96; // pixels of the page
const tiles = new Map(); // elements by cell id
let groupsShown = []; // [group, ids], as drawn

// The groups in their order, each with its cells.
function galleryGroups() {
  const cells = liveCells(state.file), review = state.reviewFirst ? cells.filter(needsReview) : [];
  const uncertainty = (cell) => (cell.known ? cell.probabilities[cell.label] : cell.remark === "unfamiliar stain" ? 1 : 2);
  review.sort((one, other) => uncertainty(one) - uncertainty(other));
  const groups = new Map(PAGE.order.map((label) => [label, []]));
  const rest = [];
  for (const label of [NOT_WHITE, REFUSED]) rest.push([label, []]);
  for (const cell of cells) {
    if (state.reviewFirst && needsReview(cell)) continue;
    const group = groupOf(cell);
    (groups.get(group) ?? rest.find(([name]) => name === group)[1]).push(cell);
  }
  return [["review", review], ...[...groups], ...rest.reverse()].filter(([name, found]) => found.length || PAGE.order.includes(name))
    .map(([name, found]) => [name, found.map((cell) => cell.id)]);
}

function tileText(cell) {
  if (groupOf(cell) === REFUSED) return tr(`reason.${reasonOf(cell)}`);
  if (cell.hand) return `✓ ${tr("cell.by_hand")}`;
  return percent(cell.probabilities[cell.label]);
}

function thumbnail(cell) {
  const field = state.fields[cell.field], picture = h("i", { class: "thumb" });
  if (cell.tile !== null && field.atlas) {
    const [column, row] = [cell.tile % PAGE.atlasColumns, Math.floor(cell.tile / PAGE.atlasColumns)];
    picture.style.backgroundImage = `url("${field.atlas}")`;
    picture.style.backgroundSize = `${PAGE.atlasColumns * TILE}px auto`;
    picture.style.backgroundPosition = `${-column * TILE}px ${-row * TILE}px`;
  } else if (field.preview) picture.append(cropView(cell, TILE));
  return picture;
}

function makeTile(cell) {
  const tile = h("button", { type: "button", "data-cell": cell.id }, thumbnail(cell), h("span", {}));
  dressTile(tile, cell);
  return tile;
}

// Show the state of a cell on its tile, which stays the same element under the pointer and the focus.
function dressTile(tile, cell) {
  const refused = groupOf(cell) === REFUSED, chosen = cell.id === state.current, selected = state.selected.has(cell.id);
  const kinds = { refused, doubtful: isDoubtful(cell), hand: cell.hand, chosen, selected };
  tile.className = ["tile", ...Object.keys(kinds).filter((kind) => kinds[kind])].join(" ");
  tile.tabIndex = chosen ? 0 : -1;
  tile.setAttribute("aria-pressed", String(selected));
  tile.setAttribute("aria-label", `${state.fields[cell.field].file}, ${cellSentence(cell)}`);
  const review = state.reviewFirst && isDoubtful(cell);
  tile.lastChild.textContent = review ? `${typeName(cell.label)} ${tileText(cell)}` : tileText(cell);
}

function drawGallery(changed) {
  const pane = $(".gallery-pane");
  pane.hidden = state.view !== "gallery";
  if (pane.hidden) return groupsShown.length = 0;
  const all = changed === null || !groupsShown.length;
  if (all) tiles.clear();
  const focused = document.activeElement?.classList.contains("tile") ? Number(document.activeElement.dataset.cell) : null;
  for (const id of all ? [] : changed) if (tiles.has(id)) dressTile(tiles.get(id), state.cells[id]);
  const groups = galleryGroups(), old = new Map(groupsShown.map(([name, ids]) => [name, ids]));
  const place = $(".groups");
  const names = groups.map(([name]) => name), same = !all && names.join() === groupsShown.map(([name]) => name).join();
  if (!same) place.replaceChildren(...groups.map(([name]) => groupElement(name)));
  for (const [name, ids] of groups) {
    const was = old.get(name) ?? [];
    if (same && was.length === ids.length && was.every((id, at) => id === ids[at] && tiles.has(id))) continue;
    fillGroup(place.querySelector(`[data-group="${name}"]`), name, ids);
  }
  groupsShown = groups;
  if (!tiles.get(state.current)) tiles.get(groups.flatMap(([, ids]) => ids)[0])?.setAttribute("tabindex", "0");
  if (focused !== null && document.activeElement === document.body) focusCell(focused);
  drawGalleryBar();
}
parts.push(drawGallery);

function groupElement(name) {
  const element = h("section", { class: "group", "data-group": name }, h("h3", {}), h("div", { class: "tiles" }));
  return element;
}

function fillGroup(element, name, ids) {
  const key = PAGE.order.indexOf(name) + 1;
  const title = name === "review" ? tr("group.review") : capital(typeName(name));
  element.querySelector("h3").replaceChildren(
    ...(name === "review" || name === REFUSED ? [] : [h("i", { class: "dot", "aria-hidden": "true", style: { background: colorOf(name) } })]),
    `${title} (${whole(ids.length)})`, ...(key || name === NOT_WHITE ? [h("kbd", {}, String(key || 0))] : []),
    ...(ids.length && (name === "review" || name === REFUSED) ? [button(tr("group.select"), () => selectOnly(ids))] : []));
  for (const id of ids) if (!tiles.has(id)) tiles.set(id, makeTile(state.cells[id]));
  element.classList.toggle("none", !ids.length);
  element.querySelector(".tiles").replaceChildren(...ids.map((id) => tiles.get(id)));
}

function drawGalleryBar() {
  const review = liveCells(state.file).filter(needsReview).length;
  const readable = state.fields.flatMap((field, index) => (field.preview ? [index] : []));
  $(".gallery-bar").replaceChildren(
    h("label", { class: "switch" }, h("input", { type: "checkbox", class: "review-first", checked: state.reviewFirst,
      onchange: (event) => setReviewFirst(event.target.checked) }), tr("gallery.review", { count: whole(review) })),
    readable.length > 1 ? h("select", { class: "filter", "aria-label": tr("gallery.filter"), onchange: (event) => {
      state.file = event.target.value === "" ? null : Number(event.target.value);
      redraw();
    } }, h("option", { value: "", selected: state.file === null }, tr("gallery.all", { count: readable.length })),
    readable.map((index) => h("option", { value: index, selected: state.file === index }, state.fields[index].file))) : "",
    state.selected.size ? h("span", { class: "selection" }, tr("cell.selected", { count: whole(state.selected.size) }), " ",
      button(tr("gallery.clear"), () => selectOnly([]))) : h("span", { class: "tip" }, tr("gallery.tip")));
}

function setReviewFirst(on) {
  state.reviewFirst = on;
  groupsShown.length = 0;
  const first = on ? galleryGroups()[0][1][0] : null;
  redraw();
  $(".review-first").focus();
  if (first !== null && first !== undefined) chooseCell(first);
}

function selectOnly(ids) {
  const changed = [...new Set([...state.selected, ...ids])];
  state.selected = new Set(ids);
  redraw(changed);
}

function galleryOrder() {
  return groupsShown.flatMap(([, ids]) => ids);
}

// The cell that follows those that are about to leave their group: the next of the same group, or the one before.
function neighbourAfter(ids) {
  const group = groupsShown.find(([, members]) => members.includes(ids.at(-1)))?.[1] ?? [];
  const left = new Set(ids), at = group.indexOf(ids.at(-1));
  return group.slice(at).find((id) => !left.has(id)) ?? group.slice(0, Math.max(0, at)).reverse().find((id) => !left.has(id))
    ?? galleryOrder().find((id) => !left.has(id));
}

function focusCell(id) {
  const element = state.view === "gallery" ? tiles.get(id) : $(`.box[data-cell="${id}"]`);
  element?.focus({ preventScroll: state.view === "field" });
  if (state.view === "gallery") element?.scrollIntoView({ block: "nearest" });
}

// The cell that an arrow key leads to: along the order, or to the nearest above or below.
function neighbour(key) {
  const order = state.view === "gallery" ? galleryOrder() : liveCells(state.field).map((cell) => cell.id);
  const at = order.indexOf(state.current);
  if (key === "ArrowLeft" || key === "ArrowRight") return order[at + (key === "ArrowRight" ? 1 : -1)];
  const element = (id) => (state.view === "gallery" ? tiles.get(id) : $(`.box[data-cell="${id}"]`));
  const from = element(state.current)?.getBoundingClientRect(), sign = key === "ArrowDown" ? 1 : -1;
  if (!from) return undefined;
  let best, least = Infinity;
  for (const id of order) {
    const to = element(id).getBoundingClientRect();
    const down = sign * (to.top - from.top), aside = Math.abs(to.left - from.left);
    if (down < 5) continue;
    const distance = state.view === "gallery" ? down * 1000 + aside : down + 2 * aside;
    if (distance < least) [best, least] = [id, distance];
  }
  return best;
}

function listenToGallery() {
  const pane = $(".gallery-pane");
  pane.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    const id = Number(tile.dataset.cell);
    if (event.shiftKey && state.current !== null) extendSelection(id);
    else if (event.ctrlKey || event.metaKey) toggleSelected(id);
    else if (state.selected.size) selectOnly([]);
    chooseCell(id, { focus: true });
  });
  pane.addEventListener("dblclick", (event) => {
    const tile = event.target.closest(".tile");
    if (tile && !event.ctrlKey && !event.shiftKey) chooseCell(Number(tile.dataset.cell), { open: true, focus: true });
  });
  pane.addEventListener("pointerdown", (event) => {
    const tile = event.target.closest(".tile");
    // A finger scrolls the gallery: it moves cells by the buttons beside it.
    if (tile && event.button === 0 && event.pointerType !== "touch") dragged = { id: Number(tile.dataset.cell), from: [event.clientX, event.clientY] };
  });
  document.addEventListener("pointermove", dragTile);
  document.addEventListener("pointerup", (event) => dropTile(event, true));
  document.addEventListener("pointercancel", (event) => dropTile(event, false));
  // The click that ends a drag chooses nothing.
  pane.addEventListener("click", (event) => {
    if (!justDropped) return;
    justDropped = false;
    event.stopPropagation();
  }, true);
}

let dragged = null, justDropped = false; // dragged: {id, from, ghost}
const DRAG_STARTS = 6; // pixels of the page

// The group under the pointer that takes cells; the refused ones and those to review take none.
function groupAt(event) {
  const group = document.elementFromPoint(event.clientX, event.clientY)?.closest(".group");
  return group && !["review", REFUSED].includes(group.dataset.group) ? group : null;
}

function draggedCells() {
  return state.selected.has(dragged.id) ? [...state.selected] : [dragged.id];
}

function dragTile(event) {
  if (!dragged) return;
  if (!dragged.ghost) {
    if (Math.hypot(event.clientX - dragged.from[0], event.clientY - dragged.from[1]) < DRAG_STARTS) return;
    const count = draggedCells().length;
    dragged.ghost = h("div", { class: "ghost" }, thumbnail(state.cells[dragged.id]), count > 1 ? h("b", {}, whole(count)) : null);
    $(".gallery-pane").append(dragged.ghost);
    $(".gallery-pane").classList.add("dragging");
  }
  event.preventDefault();
  Object.assign(dragged.ghost.style, { left: `${event.clientX + 8}px`, top: `${event.clientY + 8}px` });
  for (const group of document.querySelectorAll("#bench .group")) group.classList.toggle("over", group === groupAt(event));
}

// A cell that is dropped on a group gets its type.
function dropTile(event, taken) {
  if (!dragged) return;
  const { ghost } = dragged, ids = draggedCells(), group = ghost && taken ? groupAt(event) : null;
  dragged = null;
  if (!ghost) return;
  ghost.remove();
  justDropped = true;
  setTimeout(() => (justDropped = false));
  $(".gallery-pane").classList.remove("dragging");
  for (const other of document.querySelectorAll("#bench .group.over")) other.classList.remove("over");
  if (!group) return;
  state.selected.clear();
  assign(ids, group.dataset.group === NOT_WHITE ? null : group.dataset.group);
  redraw(ids);
}

function toggleSelected(id) {
  const ids = new Set(state.selected);
  if (!ids.delete(id)) ids.add(id);
  selectOnly([...ids]);
}

function extendSelection(id) {
  const order = galleryOrder(), [from, to] = [order.indexOf(state.current), order.indexOf(id)].sort((one, other) => one - other);
  selectOnly([...new Set([...state.selected, ...order.slice(from, to + 1)])]);
}
