"use strict";
// Sorting and filtering of the prompts. Without JavaScript the page shows its first prompts in the order of the suite.
// A page of many prompts holds the cards of the others as text, which become elements when they are near the screen.
const CHUNK = 5; // cards that become elements together: few, so that scrolling stays smooth
const CARD_HEIGHT = 620; // pixels, until a card is there
const gallery = document.getElementById("gallery");
const controls = document.getElementById("controls");
let cards = []; // of each prompt, in the order of the suite
let shown = []; // the cards that match, in their order

async function readCards() { // JSON, gzipped, in base64
  const text = atob(document.getElementById("cards").textContent);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  cards = await new Response(plain).json();
  gallery.querySelectorAll(".prompt").forEach((one, index) => { cards[index].element = one; });
}

function element(card) {
  if (!card.element) {
    const template = document.createElement("template");
    template.innerHTML = card.html; // escaped when the page was written
    card.element = template.content.firstElementChild;
    card.html = null;
  }
  return card.element;
}

function fill(chunk) {
  if (chunk.cards) chunk.replaceChildren(...chunk.cards.map(element));
  chunk.cards = null;
  chunk.style.minHeight = "";
}

const nearScreen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      nearScreen.unobserve(target);
      fill(target);
    }
  }
}, { rootMargin: "1500px 0px" });

function makeChunk(ofChunk, isFirst) {
  const chunk = document.createElement("div");
  chunk.cards = ofChunk;
  if (isFirst || ofChunk.every((card) => card.element)) fill(chunk); // elements are there at once, for the search of the browser
  else {
    chunk.style.minHeight = `${ofChunk.length * CARD_HEIGHT}px`;
    nearScreen.observe(chunk);
  }
  return chunk;
}

function sortAndFilter() {
  const { sort, split, show, find } = Object.fromEntries(new FormData(controls));
  const query = find.trim().toLowerCase();
  shown = cards.filter((card) => (!split || split === card.split)
    && (show === "all" || card.problems.includes(show))
    && card.search.includes(query));
  shown.sort((a, b) => a.positions[sort] - b.positions[sort]); // the position of each prompt in each order
  nearScreen.disconnect();
  const chunks = [];
  for (let first = 0; first < shown.length; first += CHUNK) chunks.push(makeChunk(shown.slice(first, first + CHUNK), first === 0));
  gallery.replaceChildren(...chunks);
  document.getElementById("match-count").textContent = `${shown.length} of ${cards.length} prompts`;
}

function showBoxes(on) {
  document.body.classList.toggle("show-boxes", on);
  document.querySelectorAll("input[name=boxes]").forEach((box) => { box.checked = on; });
}

function reveal(number) { // a card that a link leads to, whatever is filtered
  const card = cards[number - 1];
  if (!shown.includes(card)) {
    controls.reset();
    sortAndFilter();
  }
  const chunk = Array.from(gallery.children).find((one) => one.cards?.includes(card));
  if (chunk) fill(chunk);
  element(card).scrollIntoView();
}

controls.addEventListener("input", (event) => {
  if (event.target.name === "boxes") showBoxes(event.target.checked);
  else sortAndFilter();
});
controls.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeprint", () => Array.from(gallery.children).forEach(fill));
readCards().then(() => {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#prompt-']");
    if (link) {
      event.preventDefault();
      reveal(Number(link.hash.slice("#prompt-".length)));
    }
  });
  controls.hidden = false;
  sortAndFilter();
});
