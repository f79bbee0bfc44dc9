// How things are written: numbers, times, rows of a table, notices.

export const at = (id) => document.getElementById(id);

/** `2026-11-26 14:05:09` of Unix seconds; without the day where `short`. */
export function utc(seconds, short = false) {
  const text = new Date(seconds * 1000).toISOString();
  return short ? text.slice(11, 19) : `${text.slice(0, 10)} ${text.slice(11, 19)}`;
}

/** `3 h 20 min`, of seconds. */
export function length(seconds) {
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 60) return `${Math.round(seconds * 10) / 10} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const [hours, rest] = [Math.floor(minutes / 60), minutes % 60];
  if (hours < 48) return rest ? `${hours} h ${rest} min` : `${hours} h`;
  return `${Math.round(hours / 24)} days`;
}

/** The number of decimals of a price; what arithmetic left behind the twelfth digit is none of them. */
export function decimals(price) {
  const [digits, power = "0"] = Number(price.toPrecision(12)).toString().split("e");
  return Math.max(0, (digits.split(".")[1]?.length ?? 0) - Number(power));
}

/** Replace the rows of a table's body: arrays of texts, or of nodes. */
export function fill(body, rows) {
  body.replaceChildren(
    ...rows.map((cells) => {
      const row = document.createElement("tr");
      for (const cell of cells) {
        const place = row.insertCell();
        if (cell instanceof Node) place.append(cell);
        else place.textContent = cell;
        if (cell instanceof HTMLElement && cell.dataset.long !== undefined) place.className = "text";
      }
      return row;
    }),
  );
}

/** An element with a class and a text. */
export function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

const notices = new Map();

/** Show a notice at the top of the page; an empty text takes it away. */
export function notice(id, text) {
  let shown = notices.get(id);
  if (!text) {
    shown?.remove();
    notices.delete(id);
    return;
  }
  if (!shown) {
    shown = element("p", "notice");
    shown.dataset.notice = id;
    notices.set(id, shown);
    at("notices").append(shown);
  }
  if (shown.textContent !== text) shown.textContent = text;
}
