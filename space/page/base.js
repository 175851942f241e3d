// What every part of the page shares: texts in two languages, elements, numbers.

const LANGUAGES = ["en", "zh"];
const STORED_LANGUAGE = "wbc-language";
const NOT_WHITE = "not white", REFUSED = "refused";
const parts = []; // functions that draw a part of the page anew: (changed cells or null) => void

// The browser's "localStorage" or "sessionStorage"; null where a frame of another site may not have it.
function storage(kind) {
  try {
    return window[kind];
  } catch {
    return null;
  }
}

function language() {
  return document.documentElement.lang.startsWith("zh") ? "zh" : "en";
}

// Choose a language at once, and for Gradio's own few words at the next visit too.
async function setLanguage(chosen) {
  storage("localStorage")?.setItem(STORED_LANGUAGE, chosen);
  const locale = chosen === "zh" ? "zh-CN" : "en";
  document.documentElement.lang = locale;
  redraw();
  const core = performance.getEntriesByType("resource").find((entry) => /\/core-[\w-]+\.js$/.test(entry.name));
  if (core) (await import(core.name)).changeLocale?.(locale);
}

// Gradio asks the browser for its language; one that was chosen here comes first.
function preferStoredLanguage() {
  const stored = storage("localStorage")?.getItem(STORED_LANGUAGE);
  if (stored) Object.defineProperty(navigator, "language", { get: () => (stored === "zh" ? "zh-CN" : "en") });
}

// The page's own words, in the language that was chosen here, whatever Gradio made of the browser's.
function useStoredLanguage() {
  const stored = storage("localStorage")?.getItem(STORED_LANGUAGE);
  if (stored) document.documentElement.lang = stored === "zh" ? "zh-CN" : "en";
}

// The text of a key, with its placeholders filled.
function tr(key, values = {}) {
  return fill(PAGE.texts[key][language()], values);
}

function fill(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function typeName(label) {
  if (label === NOT_WHITE) return tr("group.not_white");
  if (label === REFUSED) return tr("group.refused");
  return PAGE.types[label] ? PAGE.types[label].name[language()] : label;
}

function named(table, key) {
  return PAGE[table][key] ? PAGE[table][key][language()] : key;
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// A probability in percent, and never as certainty: of 0.997, "99 %".
function percent(probability) {
  return `${Math.min(99, Math.max(1, Math.round(100 * probability)))} %`;
}

function whole(number) {
  return number.toLocaleString("en-US");
}

// An element. Children that are no elements become text, so that nothing is ever read as HTML.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, part] of Object.entries(value)) element.style.setProperty(key, part);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

function $(selector) {
  return document.querySelector(`#bench ${selector}`);
}

function redraw(changed = null) {
  if ($(".work")) for (const part of parts) part(changed);
}

// Tell those who hear the page what was done; a second time the same must be heard again.
function announce(message) {
  const place = $(".said");
  if (place) place.textContent = place.textContent === message ? `${message}\u00a0` : message;
}

function downloadFile(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
