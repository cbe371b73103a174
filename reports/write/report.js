// Draws every plot of the page, again when the colour scheme changes, and in light for printing.
(() => {
  "use strict";
  const PAPER = 680; // px, what A4 and Letter leave between margins
  const { plots, dark } = JSON.parse(document.getElementById("plots").textContent);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const places = [...document.querySelectorAll("[data-plot]")];
  const state = document.documentElement.dataset;
  const config = {
    responsive: true,
    displayModeBar: false, // a drag zooms, a double click goes back
  };

  function coloured(plot, isDark) {
    if (!isDark) return plot;
    const recolour = (text) => dark[text] ?? text;
    return JSON.parse(JSON.stringify(plot), (_, value) =>
      typeof value === "string" ? recolour(value) : value);
  }

  function draw(place, isDark, width) {
    const plot = coloured(plots[place.dataset.plot], isDark);
    const layout = {
      ...plot.layout,
      autosize: !width,
      width,
      height: parseInt(place.style.minHeight, 10),
      dragmode: coarse ? false : "zoom",
    };
    if (!place.classList.contains("js-plotly-plot")) place.replaceChildren();
    return Plotly.react(place, plot.data, layout, config);
  }

  async function drawAll(isDark) {
    const errors = [];
    for (const place of places) {
      try {
        await draw(place, isDark);
      } catch (error) {
        errors.push(`${place.dataset.plot}: ${error.message}`);
        place.textContent = "This plot could not be drawn; its numbers are in the table below.";
      }
    }
    state.drawn = String(places.length - errors.length);
    state.errors = errors.join("; ");
  }

  drawAll(scheme.matches);
  scheme.addEventListener("change", () => drawAll(scheme.matches));
  const onPaper = (place) => {
    const beside = place.closest(".dense") ? 3 : place.closest(".single") ? 1 : 2;
    return PAPER / beside - (beside > 1 ? 10 : 0);
  };
  addEventListener("beforeprint", () => places.forEach((place) => draw(place, false, onPaper(place))));
  addEventListener("afterprint", () => drawAll(scheme.matches));
})();
