"use strict";
// Sorting and filtering of the prompts. Without JavaScript the page shows all prompts in the order of the suite.
const gallery = document.getElementById("gallery");
const controls = document.getElementById("controls");
const cards = Array.from(gallery.querySelectorAll(".prompt"));

function sortAndFilter() {
  const { sort, split, show, find } = Object.fromEntries(new FormData(controls));
  const query = find.trim().toLowerCase();
  const position = (card) => Number(card.getAttribute(`data-${sort}`)); // the page holds the position of each prompt in each order
  const sorted = [...cards].sort((a, b) => position(a) - position(b));
  let matches = 0;
  for (const card of sorted) {
    const { split: cardSplit, problems, search } = card.dataset;
    const match = (!split || split === cardSplit)
      && (show === "all" || problems.split(" ").includes(show))
      && search.includes(query);
    card.hidden = !match;
    matches += match;
  }
  gallery.append(...sorted);
  document.getElementById("match-count").textContent = `${matches} of ${cards.length} prompts`;
}

controls.hidden = false;
controls.addEventListener("input", sortAndFilter);
controls.addEventListener("submit", (event) => event.preventDefault());
sortAndFilter();
