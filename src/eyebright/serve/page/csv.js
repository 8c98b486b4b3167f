// A table as CSV (RFC 4180) that a spreadsheet opens without harm.

/** Text of one cell. Spreadsheets take what begins with = + - @ for a formula and would run it. */
export function cell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The BOM tells Excel that it is UTF-8. */
export const csv = (rows) =>
  "\ufeff" + rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
