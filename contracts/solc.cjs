#!/usr/bin/env node
// npm's solc behind the command line of the native one, for compile.py, Forge and Brownie: `--version`, or standard JSON from
// standard input to standard output. Sources that are not in it are read from below the working directory.
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require("solc");

function write(text) {
  // process.stdout.write followed by an exit cuts what is piped; this returns when every byte is out.
  const bytes = Buffer.from(text, "utf8");
  for (let at = 0; at < bytes.length; ) {
    try {
      at += fs.writeSync(1, bytes, at);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

function read(name) {
  const file = path.resolve(name);
  if (!file.startsWith(process.cwd() + path.sep)) return { error: `${name} is outside ${process.cwd()}` };
  try {
    return { contents: fs.readFileSync(file, "utf8") };
  } catch (error) {
    return { error: String(error) };
  }
}

if (process.argv.includes("--version")) {
  const version = solc.version().replace(".Emscripten.clang", ".Linux.g++");
  write(`solc, the solidity compiler commandline interface\nVersion: ${version}\n`);
} else {
  write(solc.compile(fs.readFileSync(0, "utf8"), { import: read }));
}
