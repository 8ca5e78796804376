// Helia without a network of its own (light: no libp2p, nothing listens but 127.0.0.1), driven by lines of JSON.
//
//   {"do": "add", "size": n, "seed": s}    make a file of made-up bytes; answers its CID
//   {"do": "read", "cid": c, "gateway": u} read a file through a trustless gateway into Helia; answers SHA-256 and size
//   {"do": "export", "cid": c, "path": p}  write a file as CAR
//   {"do": "import", "path": p}            take a CAR; answers its roots
//   {"do": "has", "cid": c}                whether a block is in Helia's store
// On start it serves its own store as a trustless gateway and prints where.
import { createWriteStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { car } from '@helia/car'
import { fallbackRouter } from '@helia/fallback-router'
import { trustlessGatewayBlockBroker } from '@helia/trustless-gateway-client'
import { unixfs } from '@helia/unixfs'
import { CarReader } from '@ipld/car'
import { MemoryBlockstore } from 'blockstore-core'
import { createHeliaLight } from 'helia'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'

const blockstore = new MemoryBlockstore()
const own = createHeliaLight({ blockstore })
// What `ipfs add --cid-version=1 --raw-leaves` does; Helia's own defaults have larger leaves and wider nodes.
const KUBO_LIKE = {
  cidVersion: 1,
  rawLeaves: true,
  reduceSingleLeafToSelf: true,
  chunker: fixedSize({ chunkSize: 262_144 }),
  layout: balanced({ maxChildrenPerNode: 174 })
}

async function whole (source) {
  const parts = []
  for await (const part of await source) parts.push(part)
  return Buffer.concat(parts)
}

// Bytes both sides can make: the SHA-256 of seed and counter, each filling 64 KiB.
function bytes (seed, size) {
  const data = Buffer.alloc(size)
  for (let at = 0; at < size; at += 65_536) {
    data.fill(createHash('sha256').update(`${seed}:${at / 65_536}`).digest(), at, Math.min(at + 65_536, size))
  }
  return data
}

// A router of one gateway. Helia waits for ever where all its routers are fallbacks, so this one says it is none.
function onlyGateway (url) {
  const fallback = fallbackRouter({ gateways: [url] })
  return { name: 'one-gateway', async * findProviders (cid, options) { yield * fallback.findProviders(cid, options) } }
}

const actions = {
  async add ({ size, seed }) {
    const cid = await unixfs(own).addBytes(bytes(seed, size), KUBO_LIKE)
    return { cid: cid.toString() }
  },
  async read ({ cid, gateway }) {
    const helia = await createHeliaLight({
      blockstore: new MemoryBlockstore(),
      blockBrokers: [trustlessGatewayBlockBroker({ allowInsecure: true, allowLocal: true })],
      routers: [onlyGateway(gateway)]
    }).start()
    try {
      const content = await whole(unixfs(helia).cat(CID.parse(cid), { signal: AbortSignal.timeout(60_000) }))
      return { size: content.length, sha256: createHash('sha256').update(content).digest('hex') }
    } finally {
      await helia.stop()
    }
  },
  async export ({ cid, path }) {
    const stream = car(own).export(CID.parse(cid))
    await pipeline(Readable.from(stream), createWriteStream(path))
    return {}
  },
  async import ({ path }) {
    const reader = await CarReader.fromBytes(await readFile(path))
    await car(own).import(reader)
    return { roots: (await reader.getRoots()).map(String) }
  },
  async has ({ cid }) {
    return { has: await blockstore.has(CID.parse(cid)) }
  }
}

const server = createServer(async (request, response) => {
  try {
    const url = new URL(request.url, 'http://127.0.0.1')
    const cid = CID.parse(url.pathname.split('/')[2])
    if (!(await blockstore.has(cid))) { response.writeHead(404).end(); return }
    if (url.searchParams.get('format') === 'car') {
      response.writeHead(200, { 'Content-Type': 'application/vnd.ipld.car; version=1; order=dfs; dups=n' })
      await pipeline(Readable.from(car(own).export(cid)), response)
    } else {
      const block = await whole(blockstore.get(cid))
      response.writeHead(200, { 'Content-Type': 'application/vnd.ipld.raw', 'Content-Length': block.length }).end(block)
    }
  } catch (error) {
    response.writeHead(500).end(String(error))
  }
})
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` })))

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  let answer
  try {
    answer = await actions[asked.do](asked)
  } catch (error) {
    answer = { error: String(error?.stack ?? error), causes: (error?.errors ?? []).map(String) }
  }
  console.log(JSON.stringify(answer))
}
process.exit(0)
