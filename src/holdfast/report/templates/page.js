(() => {
  "use strict";

  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  const refuse = async (address) => {
    throw new Error(`This page loads nothing, also not ${address}`);
  };

  const options = {
    mode: "vega-lite",
    ast: true,
    actions: false,
    renderer: "svg",
    config: read("theme"),
    tooltip: { disableDefaultStyle: true },
    loader: { load: refuse, sanitize: refuse, http: refuse, file: refuse },
  };

  const connect = (figure, view) => {
    for (const control of figure.querySelectorAll("[data-param]")) {
      control.addEventListener("change", () => {
        view.signal(control.dataset.param, control.value).runAsync();
      });
      if (control.checked) view.signal(control.dataset.param, control.value);
    }
    return view.runAsync();
  };

  const draw = async (place, spec) => {
    try {
      const { view } = await vegaEmbed(place, spec, options);
      await connect(place.closest("figure"), view);
    } catch (error) {
      place.textContent = `This figure could not be drawn: ${error.message}`;
      console.error(error);
    }
  };

  // A map: the cell under the pointer, or reached by the arrow keys, says what it claims.
  const tell = (map, cell) => {
    const before = map.querySelector(".chosen");
    before.classList.remove("chosen");
    if (before !== cell) before.removeAttribute("tabindex");
    cell.classList.add("chosen");
    cell.tabIndex = 0;
    const parts = { ...map.rows[0].cells[cell.cellIndex].dataset, ...cell.parentElement.dataset, ...cell.dataset };
    const words = map.dataset.statement.replace(/\{(\w+)\}/g, (all, name) => parts[name] ?? all);
    map.nextElementSibling.textContent = (cell.dataset.why ? `Says nothing: ${cell.dataset.why}. ` : "") + words;
  };

  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  for (const map of document.querySelectorAll(".map")) {
    for (const kind of ["pointerover", "focusin"]) {
      map.addEventListener(kind, (event) => {
        const cell = event.target.closest("td");
        if (cell) tell(map, cell);
      });
    }
    map.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      const [down, right] = moves[event.key] ?? [0, 0];
      const next = cell && map.rows[cell.parentElement.rowIndex + down]?.cells[cell.cellIndex + right];
      if (!moves[event.key]) return;
      event.preventDefault();
      if (!next?.matches("td")) return;
      next.tabIndex = 0;
      next.focus();
    });
  }

  // The drawing library lies packed in the page; the page's policy knows its hash.
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.body.append(script);
    script.remove();
  };

  const specs = read("specs");
  const places = [...document.querySelectorAll("[data-figure]")];
  const drawAll = async () => {
    try {
      await unpack("library");
    } catch (error) {
      for (const place of places) place.textContent = `This browser cannot draw the figures: ${error.message}`;
    }
    if (window.vegaEmbed) await Promise.all(places.map((place) => draw(place, specs[place.dataset.figure])));
    document.documentElement.dataset.drawn = "yes";
  };
  drawAll();
})();
