"use strict";
// Sorting and filtering of the prompts. Without JavaScript the page shows all prompts in the order of the suite.
const gallery = document.getElementById("gallery");
const controls = document.getElementById("controls");
const prompts = Array.from(gallery.querySelectorAll(".prompt"));

function arrange() {
  const { sort, split, show, find } = Object.fromEntries(new FormData(controls));
  const words = find.trim().toLowerCase();
  const place = (card) => Number(card.getAttribute(`data-${sort}`)); // the page comes with the place of each prompt in each order
  const sorted = [...prompts].sort((a, b) => place(a) - place(b));
  let shown = 0;
  for (const card of sorted) {
    const { split: ownSplit, flaws, search } = card.dataset;
    const wanted = (!split || split === ownSplit)
      && (show === "all" || flaws.split(" ").includes(show))
      && search.includes(words);
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
