// A picture of queries × keys: cells, tokens along both sides, a chosen cell that pointer and arrow keys move.
// @ts-check
import { palette } from "./colours.js";
import { h } from "./dom.js";

/** @typedef {{ fill: string | null, light?: boolean, text?: string }} Cell `fill` null is hatched */
/** @typedef {{ rows: number, columns: number, rowLabels?: string[], columnLabels?: string[],
 *   cell: (row: number, column: number, colours: ReturnType<typeof palette>) => Cell,
 *   tiles?: { side: [number, number], classes: Uint8Array } | null }} Drawing */

const LARGEST_CELL = 44;

export class Matrix {
  /** @type {Drawing | null} */
  #drawing = null;
  #layout = { left: 0, top: 0, side: 1 };
  /** @type {[number, number] | null} */
  #chosen = null;
  #label;
  /** A cell was pointed at or moved to. @type {(row: number, column: number) => void} */
  onchoose = () => {};
  /** A cell was pressed, or dragged over: for painting. @type {((row: number, column: number, first: boolean) => void) | null} */
  onpaint = null;

  /** @param {string} label what it shows, for those who don't see it @param {{ small?: boolean, still?: boolean }} [options] */
  constructor(label, { small = false, still = false } = {}) {
    this.#label = label;
    this.small = small;
    this.canvas = h("canvas", { role: "img", "aria-label": label, tabindex: still ? undefined : 0 });
    this.element = h("div", { class: `matrix${still ? " still" : ""}` }, this.canvas);
    new ResizeObserver(() => this.draw()).observe(this.element);
    if (still) return;
    const canvas = this.canvas;
    let painting = false;
    canvas.addEventListener("pointerdown", (event) => {
      const cell = this.#at(event);
      if (!cell) return;
      this.onchoose(...cell);
      painting = this.onpaint !== null;
      if (painting) {
        canvas.setPointerCapture(event.pointerId);
        event.preventDefault();
        this.onpaint?.(...cell, true);
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      const cell = this.#at(event);
      if (!cell || (this.#chosen && cell[0] === this.#chosen[0] && cell[1] === this.#chosen[1])) return;
      if (event.pointerType !== "touch" || painting) this.onchoose(...cell);
      if (painting) this.onpaint?.(...cell, false);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { painting = false; });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.#drawing) return;
    const { rows, columns } = this.#drawing;
    const [row, column] = this.#chosen ?? [0, 0];
    /** @type {Record<string, [number, number]>} */
    const moves = { ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1], Home: [row, 0], End: [row, columns - 1], PageUp: [0, column], PageDown: [rows - 1, column] };
    const move = moves[event.key];
    if (move) {
      this.onchoose(Math.min(Math.max(move[0], 0), rows - 1), Math.min(Math.max(move[1], 0), columns - 1));
      event.preventDefault();
    } else if ((event.key === " " || event.key === "Enter") && this.onpaint) {
      this.onpaint(row, column, true);
      event.preventDefault();
    }
  }

  /** @param {PointerEvent} event @returns {[number, number] | null} */
  #at(event) {
    if (!this.#drawing) return null;
    const box = this.canvas.getBoundingClientRect();
    const { left, top, side } = this.#layout;
    const row = Math.floor((event.clientY - box.top - top) / side);
    const column = Math.floor((event.clientX - box.left - left) / side);
    const inside = row >= 0 && column >= 0 && row < this.#drawing.rows && column < this.#drawing.columns;
    return inside ? [row, column] : null;
  }

  /** @param {Drawing | null} drawing @param {string} [label] */
  show(drawing, label) {
    this.#drawing = drawing;
    if (label) this.#label = label;
    this.canvas.setAttribute("aria-label", this.#label);
    this.draw();
  }

  /** @param {number} row @param {number} column */
  choose(row, column) {
    this.#chosen = [row, column];
    this.draw();
  }

  /** Middle of a cell on the page: for tests. @param {number} row @param {number} column */
  middle(row, column) {
    const box = this.canvas.getBoundingClientRect();
    const { left, top, side } = this.#layout;
    return { x: box.left + left + (column + 0.5) * side, y: box.top + top + (row + 0.5) * side };
  }

  draw() {
    const drawing = this.#drawing;
    const width = this.element.clientWidth;
    if (!drawing || width === 0) return;
    const { rows, columns, rowLabels, columnLabels } = drawing;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const colours = palette();
    const font = (/** @type {number} */ size) => `${size}px system-ui, sans-serif`;
    // Labels, where a line of text fits beside a cell.
    context.font = font(11);
    const widest = (/** @type {string[]} */ labels) => Math.min(78, Math.max(...labels.map((label) => context.measureText(label).width)) + 8);
    const labelled = rowLabels && columnLabels && !this.small;
    let [left, top] = labelled ? [widest(rowLabels), widest(columnLabels)] : [0, 0];
    let side = Math.min(LARGEST_CELL, (width - left - 1) / columns);
    const withLabels = labelled && side >= 9;
    if (labelled && !withLabels) {
      [left, top] = [0, 0];
      side = Math.min(LARGEST_CELL, (width - 1) / columns);
    }
    this.#layout = { left, top, side };
    const height = Math.ceil(top + rows * side) + 1;
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.style.height = `${height}px`;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const gap = side >= 6 ? 1 : 0;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = colours.panel;
    context.fillRect(left, top, columns * side, rows * side);
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const { fill, light, text } = drawing.cell(row, column, colours);
        const [x, y] = [left + column * side, top + row * side];
        if (fill === null) this.#hatch(context, x, y, side - gap, colours.hatch);
        else {
          context.fillStyle = fill;
          context.fillRect(x, y, side - gap, side - gap);
        }
        if (text && side >= 13) {
          context.font = font(Math.min(13, (side * 1.55) / Math.max(text.length, 2)));
          context.fillStyle = fill === null || light === undefined ? colours.muted : light ? "#14171b" : "#ffffff";
          context.fillText(text, x + side / 2, y + side / 2);
        }
      }
    }
    if (drawing.tiles) this.#tiles(context, drawing, drawing.tiles, colours);
    if (withLabels && rowLabels && columnLabels) this.#labels(context, rowLabels, columnLabels, font(11), colours);
    if (this.#chosen && !this.small) this.#frame(context, colours);
  }

  /** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} side @param {string} colour */
  #hatch(context, x, y, side, colour) {
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, y + side);
    context.lineTo(x + side, y);
    if (side > 14) {
      context.moveTo(x, y + side / 2);
      context.lineTo(x + side / 2, y);
      context.moveTo(x + side / 2, y + side);
      context.lineTo(x + side, y + side / 2);
    }
    context.stroke();
  }

  /** @param {CanvasRenderingContext2D} context @param {Drawing} drawing
   * @param {{ side: [number, number], classes: Uint8Array }} tiles @param {ReturnType<typeof palette>} colours */
  #tiles(context, { rows, columns }, { side: [tileRows, tileColumns], classes }, colours) {
    const { left, top, side } = this.#layout;
    const across = Math.ceil(columns / tileColumns);
    classes.forEach((word, at) => {
      const [y, x] = [Math.floor(at / across) * tileRows, (at % across) * tileColumns];
      const [height, width] = [Math.min(tileRows, rows - y) * side, Math.min(tileColumns, columns - x) * side];
      const [fromX, fromY] = [left + x * side, top + y * side];
      context.lineWidth = 1;
      context.strokeStyle = colours.muted;
      context.setLineDash([]);
      context.strokeRect(fromX, fromY, width, height);
      if (word === 0) {
        context.beginPath();
        context.moveTo(fromX + 2, fromY + 2);
        context.lineTo(fromX + width - 3, fromY + height - 3);
        context.moveTo(fromX + width - 3, fromY + 2);
        context.lineTo(fromX + 2, fromY + height - 3);
        context.stroke();
      } else {
        context.lineWidth = 2;
        context.strokeStyle = word === 2 ? colours.ink : colours.warn;
        context.setLineDash(word === 2 ? [] : [3, 3]);
        context.strokeRect(fromX + 2, fromY + 2, width - 5, height - 5);
      }
    });
    context.setLineDash([]);
  }

  /** @param {CanvasRenderingContext2D} context @param {string[]} rows @param {string[]} columns @param {string} font
   * @param {ReturnType<typeof palette>} colours */
  #labels(context, rows, columns, font, colours) {
    const { left, top, side } = this.#layout;
    const plain = (/** @type {boolean} */ chosen) => { context.fillStyle = chosen ? colours.ink : colours.muted; };
    context.font = font;
    context.textAlign = "right";
    rows.forEach((label, row) => {
      plain(this.#chosen?.[0] === row);
      context.fillText(cut(context, label, left - 6), left - 5, top + (row + 0.5) * side);
    });
    context.textAlign = "left";
    columns.forEach((label, column) => {
      plain(this.#chosen?.[1] === column);
      context.save();
      context.translate(left + (column + 0.5) * side, top - 5);
      context.rotate(-Math.PI / 2);
      context.fillText(cut(context, label, top - 6), 0, 0);
      context.restore();
    });
  }

  /** @param {CanvasRenderingContext2D} context @param {ReturnType<typeof palette>} colours */
  #frame(context, colours) {
    if (!this.#chosen || !this.#drawing) return;
    const [row, column] = this.#chosen;
    if (row >= this.#drawing.rows || column >= this.#drawing.columns) return;
    const { left, top, side } = this.#layout;
    context.lineWidth = 1;
    context.strokeStyle = colours.muted;
    context.strokeRect(left - 0.5, top + row * side - 0.5, this.#drawing.columns * side, side);
    context.lineWidth = 2;
    context.strokeStyle = colours.ink;
    context.strokeRect(left + column * side - 0.5, top + row * side - 0.5, side, side);
  }
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} width */
function cut(context, text, width) {
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > width) shown = `${shown.slice(0, -2)}…`;
  return shown;
}
