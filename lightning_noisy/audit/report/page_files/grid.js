/** Tiles of images; only those near the screen are in the page, and the current one, which has the focus. */
class Grid {
  #tiles = new Map();
  #columns = 1;
  #width = 0;
  #height = 0;
  #gap = 0;
  #frame = 0;

  constructor(element, makeTile, onSelect) {
    this.element = element;
    this.makeTile = makeTile;
    this.shown = [];
    this.current = -1;
    addEventListener("scroll", () => this.#later(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(element);
    element.addEventListener("click", (event) => {
      const tile = event.target.closest("[role=article]");
      if (tile) onSelect(Number(tile.dataset.place));
    });
    element.addEventListener("focusin", (event) => {
      const place = Number(event.target.dataset.place);
      if (place !== this.current) onSelect(place);
    });
  }

  get columns() {
    return this.#columns;
  }

  /** Shows these rows, in this order. */
  show(rows) {
    this.shown = rows;
    this.#clear();
    this.layout();
  }

  layout() {
    const style = getComputedStyle(this.element);
    const least = parseFloat(style.getPropertyValue("--tile"));
    const textHeight = parseFloat(style.fontSize) * parseFloat(style.getPropertyValue("--lines"));
    this.#gap = parseFloat(style.getPropertyValue("--gap"));
    const whole = this.element.clientWidth;
    this.#columns = Math.max(1, Math.floor((whole + this.#gap) / (least + this.#gap)));
    this.#width = (whole - this.#gap * (this.#columns - 1)) / this.#columns;
    this.#height = this.#width + textHeight;
    const rows = Math.ceil(this.shown.length / this.#columns);
    this.element.style.height = `${Math.max(0, rows * (this.#height + this.#gap) - this.#gap)}px`;
    for (const [place, tile] of this.#tiles) this.#put(tile, place);
    this.render();
  }

  /** Makes one tile the current one, and brings it to the screen or gives it the focus. */
  select(place, { focus, scroll }) {
    const before = this.#tiles.get(this.current);
    this.current = place;
    before?.setAttribute("tabindex", "-1");
    before?.classList.remove("current");
    this.render();
    const tile = this.#tiles.get(place);
    if (!tile) return;
    tile.setAttribute("tabindex", "0");
    tile.classList.add("current");
    if (focus) tile.focus({ preventScroll: true });
    if (scroll) tile.scrollIntoView({ block: "nearest" });
  }

  /** Draws the tile of a place anew, where it is in the page. */
  refresh(place) {
    const old = this.#tiles.get(place);
    if (!old) return;
    const hadFocus = old === document.activeElement;
    const tile = this.#make(place);
    old.replaceWith(tile);
    if (hadFocus) tile.focus({ preventScroll: true });
  }

  render() {
    const wanted = this.#wanted();
    for (const [place, tile] of this.#tiles) {
      if (wanted.has(place)) continue;
      tile.remove();
      this.#tiles.delete(place);
    }
    // In reading order, and without moving a tile that is there: that would take its focus.
    let next = this.element.firstElementChild;
    for (const place of [...wanted].sort((a, b) => a - b)) {
      const there = this.#tiles.get(place);
      if (there) next = there.nextElementSibling;
      else this.element.insertBefore(this.#make(place), next);
    }
  }

  #wanted() {
    const step = this.#height + this.#gap;
    const top = -this.element.getBoundingClientRect().top;
    const beside = innerHeight / 2;
    const first = Math.max(0, Math.floor((top - beside) / step)) * this.#columns;
    const end = Math.min(this.shown.length, Math.ceil((top + innerHeight + beside) / step) * this.#columns);
    const wanted = new Set();
    for (let place = first; place < end; place++) wanted.add(place);
    if (this.current >= 0 && this.current < this.shown.length) wanted.add(this.current);
    return wanted;
  }

  #make(place) {
    const tile = this.makeTile(this.shown[place]);
    tile.dataset.place = place;
    tile.setAttribute("aria-posinset", place + 1);
    tile.setAttribute("aria-setsize", this.shown.length);
    tile.setAttribute("tabindex", place === this.current ? "0" : "-1");
    tile.classList.toggle("current", place === this.current);
    this.#put(tile, place);
    this.#tiles.set(place, tile);
    return tile;
  }

  #put(tile, place) {
    const [row, column] = [Math.floor(place / this.#columns), place % this.#columns];
    tile.style.top = `${row * (this.#height + this.#gap)}px`;
    tile.style.left = `${column * (this.#width + this.#gap)}px`;
    tile.style.width = `${this.#width}px`;
    tile.style.height = `${this.#height}px`;
  }

  #clear() {
    this.#tiles.clear();
    this.element.replaceChildren();
  }

  #later() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.render();
    });
  }
}
