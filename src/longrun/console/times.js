/* When the events of a run came, in milliseconds after its creation: as the server knows it, and
   until it has said so, by this browser's clock. */

export class Times {
  #stored = []; // [the last event of a commit, ms], in order
  #seen = new Map();
  #created = 0;

  constructor(id) {
    // The id begins with when it was made, in milliseconds.
    this.#created = parseInt(id.slice(5, 17), 16);
  }

  /** What the server knows. */
  known({ times, created_at: created }) {
    if (created) this.#created = created * 1000;
    this.#stored = times ?? [];
  }

  /** An event arrived; of one that is replayed that says nothing. */
  arrived({ sequence_number: number }) {
    const ms = Date.now() - this.#created;
    if (ms >= 0) this.#seen.set(number, ms);
    if (this.#seen.size > 5000) this.#seen.delete(this.#seen.keys().next().value);
  }

  /** When an event came; undefined where that is not known. */
  of = (number) => {
    const stored = this.#stored;
    if (stored.length && number <= stored.at(-1)[0]) {
      let [low, high] = [0, stored.length - 1];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (stored[middle][0] < number) low = middle + 1;
        else high = middle;
      }
      return stored[low][1] ?? undefined;
    }
    return stored.length ? this.#seen.get(number) : undefined;
  };
}
