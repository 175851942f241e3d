// Show the box and the heat map of one cell as chosen.
function markCell(index) {
  for (const part of document.querySelectorAll("#stage [data-cell]"))
    part.classList.toggle("chosen", part.dataset.cell === String(index));
}

// Choose the cell whose box was clicked; `trigger` raises the event in Gradio.
function chooseCell(event, trigger) {
  const box = event.target.closest(".box");
  if (!box) return;
  markCell(box.dataset.cell);
  trigger("click", { index: Number(box.dataset.cell) });
}

// Choose the example whose thumbnail was clicked.
function chooseExample(event, trigger) {
  const button = event.target.closest("button");
  if (button) trigger("click", { index: Number(button.dataset.index) });
}

function setHeatMapOpacity(percent) {
  document.querySelector(".gradio-container").style.setProperty("--heat", percent / 100);
}

// Gradio's settings hold the language.
function openSettings() {
  document.querySelector("footer .settings").click();
}

// Say which types the upload fields take, so that phones convert theirs. Dropped files of other types get an answer.
new MutationObserver(() => {
  for (const input of document.querySelectorAll(".drop input[type=file]"))
    input.accept ||= input.multiple ? `${imageTypes},.zip` : imageTypes;
}).observe(document, { childList: true, subtree: true });

// Hand pasted images to the upload field of the open tab.
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  const inputs = [...document.querySelectorAll(".drop input[type=file]")];
  const input = inputs.find((found) => found.closest(".drop").offsetParent);
  if (!files.length || !input) return;
  const transfer = new DataTransfer();
  for (const file of input.multiple ? files : files.slice(0, 1)) transfer.items.add(file);
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
