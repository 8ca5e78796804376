#!/usr/bin/env node
// npm's solc behind the command line of the native one, for compile.py, Forge and Brownie: `--version`, or standard JSON from
// standard input to standard output.
"use strict";
const fs = require("fs");
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

if (process.argv.includes("--version")) {
  const version = solc.version().replace(".Emscripten.clang", ".Linux.g++");
  write(`solc, the solidity compiler commandline interface\nVersion: ${version}\n`);
} else {
  write(solc.compile(fs.readFileSync(0, "utf8")));
}
