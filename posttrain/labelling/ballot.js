"use strict";
(() => {
  const part = (id) => document.getElementById(id);
  const keys = { a: "a", b: "b", t: "tie", s: "skip", u: "undo", q: "quit" };
  let pair = null;
  let over = false;
  let busy = false;

  const show = (state) => {
    const fresh = state.pair && (!pair || pair.id !== state.pair.id);
    pair = state.pair;
    over = state.over;
    const told = state.skipped ? `, ${state.skipped} skipped` : "";
    part("count").textContent = `${state.voted} of ${state.total} pairs have your vote${told}`;
    part("progress").max = state.total;
    part("progress").value = state.voted;
    part("said").textContent = state.said;
    const going = pair && !over;
    part("pair").hidden = !going;
    part("end").hidden = Boolean(going);
    part("keys").hidden = over;
    if (going) {
      for (const name of ["prompt", "first", "second"]) part(name).textContent = pair[name];
      if (fresh) scrollTo(0, 0);
      return;
    }
    part("end").textContent = over
      ? "Your votes are saved. You can close this page; the same command continues."
      : "All pairs are done. Press u to go back, or q to finish.";
  };

  const say = (text) => { part("said").textContent = text; };
  const talk = async (options) => {
    if (busy || over) return;
    busy = true;
    try {
      const answer = await fetch("ballot", options);
      if (answer.ok) show(await answer.json());
      else if (answer.status === 500) say("That could not be saved; the terminal says why. Earlier votes are kept.");
      else say("This page is no longer known. Open the address that the terminal shows.");
    } catch {
      say("The command in the terminal has ended; your votes are saved. Start it again to go on.");
    }
    busy = false;
  };
  const act = (name) => talk({
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ do: name, pair: pair && pair.id }),
  });

  addEventListener("keydown", (event) => {
    const name = keys[event.key.toLowerCase()];
    if (!name || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act(name);
  });
  part("keys").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) act(button.dataset.do);
  });
  talk();
})();
