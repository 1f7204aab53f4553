// The viewer: a whole image with zoom; two runs at the same place, one over the other, the left one up to the divider.
const viewer = document.getElementById("viewer");
const bar = viewer.querySelector("form").elements;
const stage = viewer.querySelector(".stage");
const canvas = viewer.querySelector(".canvas");
const sides = Array.from(viewer.querySelectorAll(".side")); // left, right
const ZOOM_STEP = 1.25;
const view = { links: [], article: null, fits: true, zoom: 1, width: 1, height: 1 };

function loadOriginal(image, link) { // where the page holds a smaller copy, and the run folder is still there
  const original = new Image();
  original.onload = () => { image.src = original.src; };
  original.src = link.href;
}

function fillSide(side, link) {
  const image = link.querySelector("img").cloneNode();
  image.loading = "eager";
  const boxes = link.querySelector("svg");
  side.replaceChildren(image, ...(boxes ? [boxes.cloneNode(true)] : []));
  if (!("whole" in document.body.dataset)) loadOriginal(image, link);
}

function setDivider(percent) {
  bar.divider.value = Math.min(100, Math.max(0, percent));
  const share = view.links.length > 1 ? Number(bar.divider.value) : 100;
  sides[0].style.clipPath = `inset(0 ${100 - share}% 0 0)`;
  canvas.style.setProperty("--divider", `${share}%`);
  canvas.classList.toggle("divided", share > 0 && share < 100);
  const [left, right] = [bar.left, bar.right].map((select) => select.selectedOptions[0]?.textContent);
  viewer.querySelector("output[name=shown]").textContent = share === 100 ? left : share === 0 ? right : `${left} | ${right}`;
  viewer.querySelector(".viewer-foot a").href = view.links[(share >= 50 ? bar.left : bar.right).value].href;
}

function setZoom(zoom, fits = false) {
  const [x, y] = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
  const factor = zoom / view.zoom;
  Object.assign(view, { fits, zoom });
  canvas.style.width = `${view.width * zoom}px`;
  canvas.style.height = `${view.height * zoom}px`;
  stage.scrollTo(x * factor - stage.clientWidth / 2, y * factor - stage.clientHeight / 2);
  bar.zoom.value = `${Math.round(100 * zoom)} %`;
}

function fit() {
  setZoom(Math.min(stage.clientWidth / view.width, stage.clientHeight / view.height), true);
}

function chooseSides() {
  fillSide(sides[0], view.links[bar.left.value]);
  fillSide(sides[1], view.links[bar.right.value]);
  setDivider(bar.divider.value);
}

function openArticle(article, link) {
  view.article = article;
  view.links = Array.from(article.querySelectorAll("a.original"));
  const chosen = Math.max(0, view.links.indexOf(link));
  const label = (one, index) => new Option(
    `${one.closest("figure").querySelector("bdi").textContent}, seed ${one.dataset.seed}`, index);
  bar.left.replaceChildren(...view.links.map(label));
  bar.right.replaceChildren(...view.links.map(label));
  const sameSeed = (index) => view.links[index].dataset.seed === view.links[chosen].dataset.seed;
  const others = [...view.links.keys()].filter((index) => index !== chosen);
  const other = others.find(sameSeed) ?? others[0] ?? chosen;
  bar.left.value = Math.min(chosen, other);
  bar.right.value = Math.max(chosen, other);
  viewer.classList.toggle("alone", view.links.length < 2);
  viewer.querySelector("h2").textContent = article.querySelector("h3 bdi, .more bdi").textContent;
  const image = view.links[chosen].querySelector("img");
  Object.assign(view, { width: Number(image.getAttribute("width")), height: Number(image.getAttribute("height")) });
  bar.divider.value = chosen <= other ? 100 : 0;
  chooseSides();
  if (!viewer.open) viewer.showModal();
  fit();
  stage.focus();
}

function step(direction) { // to the next prompt with an image, in the order of the gallery or of the top of the page
  const ofGallery = view.article.classList.contains("prompt");
  const articles = ofGallery ? shown : Array.from(document.querySelectorAll(".highlight"));
  const at = articles.findIndex((one) => (ofGallery ? one.element : one) === view.article);
  for (let index = at + direction; index >= 0 && index < articles.length; index += direction) {
    const article = ofGallery ? element(articles[index]) : articles[index];
    if (article.querySelector("a.original")) return openArticle(article);
  }
  return undefined;
}

const flip = () => setDivider(Number(bar.divider.value) >= 50 ? 0 : 100);
const actions = {
  flip,
  smaller: () => setZoom(view.zoom / ZOOM_STEP),
  larger: () => setZoom(view.zoom * ZOOM_STEP),
  fit,
  previous: () => step(-1),
  next: () => step(1),
};
const keys = {
  " ": flip,
  ArrowLeft: () => setDivider(Number(bar.divider.value) - 5),
  ArrowRight: () => setDivider(Number(bar.divider.value) + 5),
  "+": actions.larger,
  "=": actions.larger,
  "-": actions.smaller,
  0: fit,
  b: () => showBoxes(!document.body.classList.contains("show-boxes")),
  PageUp: actions.previous,
  PageDown: actions.next,
};

viewer.addEventListener("keydown", (event) => {
  const isControl = event.target.closest("button, select, input") !== null;
  const isPaging = event.key.startsWith("Page");
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys) || (isControl && !isPaging)) return;
  event.preventDefault();
  keys[event.key]();
});
viewer.addEventListener("click", (event) => actions[event.target.name]?.());
viewer.addEventListener("input", ({ target }) => {
  if (target.name === "divider") setDivider(target.value);
  else if (target.name === "boxes") showBoxes(target.checked);
  else chooseSides();
});
stage.addEventListener("dblclick", () => (view.fits ? setZoom(1) : fit()));
stage.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  setZoom(view.zoom * (event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP));
}, { passive: false });
stage.addEventListener("pointermove", (event) => {
  if (event.buttons === 1 && event.pointerType === "mouse") stage.scrollBy(-event.movementX, -event.movementY);
});
addEventListener("resize", () => { if (viewer.open && view.fits) fit(); });
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.original");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  openArticle(link.closest("article"), link);
});
