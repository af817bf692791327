"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const nameTheme = () => { theme.textContent = isDark() ? "Light colours" : "Dark colours"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  dark.addEventListener("change", nameTheme);
  nameTheme();

  const every = (selector, from = document) => [...from.querySelectorAll(selector)];
  addEventListener("beforeprint", () => every("details").forEach((part) => { part.open = true; }));

  const controls = document.getElementById("controls");
  if (!controls) return;
  controls.hidden = false;
  const list = document.getElementById("prompts");
  const prompts = every(".prompt", list);
  const [axis, order, fell] = ["axis", "order", "fell"].map((name) => document.getElementById(name));
  const figure = (prompt, name) => {
    const text = prompt.getAttribute(`data-${name}-${axis.value}`);
    return text ? Number(text) : NaN;
  };
  const known = (value, otherwise) => (Number.isNaN(value) ? otherwise : value);
  const orders = {
    given: () => 0,
    drop: (a, b) => known(figure(b, "drop"), -1) - known(figure(a, "drop"), -1),
    low: (a, b) => known(figure(a, "last"), 99) - known(figure(b, "last"), 99),
  };

  const open = document.getElementById("open");
  const nameOpen = () => {
    open.textContent = prompts.some((prompt) => !prompt.hidden && !prompt.open) ? "Open all" : "Close all";
  };
  const show = () => {
    const single = axis.value !== "all";
    every("[data-axis]", list).forEach((part) => { part.hidden = single && part.dataset.axis !== axis.value; });
    every("[data-way]", list).forEach((part) => { part.hidden = part.dataset.way !== axis.value; });
    const least = Number(fell.value);
    prompts.forEach((prompt) => { prompt.hidden = least > 0 && !(figure(prompt, "drop") >= least); });
    [...prompts].sort(orders[order.value]).forEach((prompt) => list.append(prompt));
    const count = prompts.filter((prompt) => !prompt.hidden).length;
    document.getElementById("shown").textContent = `${count} of ${prompts.length} prompts shown`;
    nameOpen();
  };
  [axis, order, fell].forEach((control) => control.addEventListener("change", show));
  open.addEventListener("click", () => {
    const closed = prompts.some((prompt) => !prompt.hidden && !prompt.open);
    prompts.forEach((prompt) => { prompt.open = closed; });
  });
  prompts.forEach((prompt) => prompt.addEventListener("toggle", nameOpen));
  show();
})();
