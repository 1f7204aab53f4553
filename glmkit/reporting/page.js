"use strict";
// Sorting and filtering of the prompts. Without JavaScript the page shows all prompts in their own order.
const gallery = document.getElementById("gallery");
const controls = document.getElementById("controls");
const prompts = Array.from(gallery.querySelectorAll(".prompt"));
const number = (card, key) => Number(card.dataset[key]);
const last = (value) => (Number.isNaN(value) ? -Infinity : value);
const order = {
  given: (a, b) => number(a, "place") - number(b, "place"),
  worst: (a, b) => number(b, "badness") - number(a, "badness"),
  change: (a, b) => last(Math.abs(number(b, "change"))) - last(Math.abs(number(a, "change"))),
  better: (a, b) => last(number(b, "change")) - last(number(a, "change")),
  worse: (a, b) => last(-number(b, "change")) - last(-number(a, "change")),
  prompt: (a, b) => a.dataset.search.localeCompare(b.dataset.search),
};

function arrange() {
  const { sort, split, show, find } = Object.fromEntries(new FormData(controls));
  const words = find.trim().toLowerCase();
  const sorted = [...prompts].sort((a, b) => order[sort](a, b) || order.given(a, b));
  let shown = 0;
  for (const card of sorted) {
    const wanted = (!split || card.dataset.split === split)
      && (show === "all" || card.dataset.flaws.split(" ").includes(show))
      && card.dataset.search.includes(words);
    card.hidden = !wanted;
    shown += wanted;
  }
  gallery.append(...sorted);
  document.getElementById("shown").textContent = `${shown} of ${prompts.length} prompts`;
}

controls.hidden = false;
controls.addEventListener("input", arrange);
controls.addEventListener("submit", (event) => event.preventDefault());
arrange();
