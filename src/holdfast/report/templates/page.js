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

  const specs = read("specs");
  const places = [...document.querySelectorAll("[data-figure]")];
  Promise.all(places.map((place) => draw(place, specs[place.dataset.figure]))).then(() => {
    document.documentElement.dataset.drawn = "yes";
  });
})();
