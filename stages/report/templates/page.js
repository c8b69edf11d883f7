// Charts answer the mouse, a finger and the keyboard: the slider below a chart says where its curves are read off.
const short = (value) => (value === 0 ? "0" : Math.abs(value) < 0.001 ? value.toExponential(1) : String(+value.toPrecision(3)));

for (const figure of document.querySelectorAll(".chart")) {
  const { x, y, curves } = JSON.parse(figure.querySelector("script").textContent);
  const picture = figure.querySelector("svg");
  const [lines, dots] = ["polyline", "circle"].map((kind) => picture.querySelectorAll(kind));
  const [values, boxes] = [".value", "[type=checkbox]"].map((kind) => figure.querySelectorAll(kind));
  const slider = figure.querySelector("[type=range]");
  const cursor = figure.querySelector(".cursor");
  const names = [...figure.querySelectorAll(".legend span")].map((name) => name.textContent);
  const scale = ([, , log]) => (log ? Math.log10 : (value) => value);
  const place = (axis, value) => {
    const [low, high, , first, last] = axis;
    const within = Math.min(Math.max(value, low), high);
    return first + ((scale(axis)(within) - scale(axis)(low)) / (scale(axis)(high) - scale(axis)(low))) * (last - first);
  };

  const read = ([xs, ys], at) => {
    let after = xs.findIndex((value) => value > at);
    if (after === 0) return null;
    if (after < 0) return at > xs[xs.length - 1] * (1 + 1e-9) ? null : ys[ys.length - 1];
    if (figure.dataset.steps === "yes") return ys[after - 1];
    return ys[after - 1] + ((at - xs[after - 1]) / (xs[after] - xs[after - 1])) * (ys[after] - ys[after - 1]);
  };

  const show = () => {
    const share = slider.value / 1000;
    const [low, high] = [scale(x)(x[0]), scale(x)(x[1])];
    let at = low + share * (high - low);
    if (x[2]) at = 10 ** at;
    cursor.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, place(x, at));
    const said = [];
    curves.forEach((curve, number) => {
      const value = boxes[number].checked ? read(curve, at) : null;
      lines[number].style.display = boxes[number].checked ? "" : "none";
      dots[number].setAttribute("visibility", value === null ? "hidden" : "visible");
      values[number].textContent = value === null ? "" : short(value);
      if (value === null) return;
      dots[number].setAttribute("cx", place(x, at));
      dots[number].setAttribute("cy", place(y, value));
      said.push(`${names[number]} ${short(value)}`);
    });
    figure.querySelector(".at").textContent = short(at);
    slider.setAttribute("aria-valuetext", `${short(at)}: ${said.join(", ")}`);
  };

  const follow = (event) => {
    const box = picture.getBoundingClientRect();
    const along = ((event.clientX - box.left) / box.width) * picture.viewBox.baseVal.width;
    slider.value = 1000 * Math.min(Math.max((along - x[3]) / (x[4] - x[3]), 0), 1);
    show();
  };

  figure.querySelector(".reader").hidden = false;
  boxes.forEach((box) => { box.disabled = false; box.addEventListener("change", show); });
  slider.addEventListener("input", show);
  picture.addEventListener("pointermove", follow);
  picture.addEventListener("pointerdown", follow);
}
