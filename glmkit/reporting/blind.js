"use strict";
// Votes on pairs of images, kept in this browser after every vote, and exported as JSON.
const main = document.querySelector("main");
const pairs = Array.from(main.querySelectorAll(".vote-pair"));
const voter = document.getElementById("voter");
const storage = `glmkit-votes-${main.dataset.page}`;
const kept = read();
const votes = new Map(Object.entries(kept.votes)); // pair -> left, right or tie
let current = 0;

function read() {
  try {
    const stored = JSON.parse(localStorage.getItem(storage));
    if (stored) return stored;
  } catch {
    document.getElementById("not-kept").hidden = false;
  }
  return { voter: "", votes: {} };
}

function keep() {
  try {
    localStorage.setItem(storage, JSON.stringify({ voter: voter.value, votes: Object.fromEntries(votes) }));
  } catch {
    document.getElementById("not-kept").hidden = false;
  }
}

function show(number) {
  current = Math.max(0, Math.min(number, pairs.length));
  pairs.forEach((pair, index) => { pair.hidden = index !== current; });
  const chosen = current < pairs.length ? votes.get(pairs[current].id) : undefined;
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === chosen));
    button.disabled = current === pairs.length;
  }
  document.getElementById("done").hidden = current < pairs.length;
  document.getElementById("bar").value = votes.size;
  document.getElementById("position").textContent = current < pairs.length
    ? `Pair ${current + 1} of ${pairs.length}, ${votes.size} with a vote` : `${votes.size} of ${pairs.length} pairs have a vote`;
}

function vote(choice) {
  if (current === pairs.length) return;
  votes.set(pairs[current].id, choice);
  keep();
  show(current + 1);
}

function save() {
  const { page, key } = main.dataset;
  const list = pairs.filter((pair) => votes.has(pair.id)).map((pair) => ({ pair: pair.id, choice: votes.get(pair.id) }));
  const text = JSON.stringify({ page, voter: voter.value.trim(), votes: list, key }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `votes-${voter.value.trim().replace(/[^\p{L}\p{N}]+/gu, "-") || "anonymous"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const keys = {
  ArrowLeft: () => vote("left"), ArrowRight: () => vote("right"), ArrowDown: () => vote("tie"),
  ArrowUp: () => show(current - 1), Backspace: () => show(current - 1),
};
document.addEventListener("keydown", (event) => {
  if (event.target === voter || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => vote(button.dataset.choice));
}
document.getElementById("back").addEventListener("click", () => show(current - 1));
document.getElementById("export").addEventListener("click", save);
voter.addEventListener("input", keep);
voter.value = kept.voter;
document.getElementById("controls").hidden = false;
const first = pairs.findIndex((pair) => !votes.has(pair.id));
show(first < 0 ? pairs.length : first);
