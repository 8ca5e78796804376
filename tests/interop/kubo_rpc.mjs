// An IPFS daemon's RPC on 127.0.0.1, offline: js-ipfs, the JavaScript implementation of the RPC that Kubo has.
// Usage: node kubo_rpc.mjs REPOSITORY; prints its address, ends when its input does.
import { create } from 'ipfs-core'
import { HttpApi } from 'ipfs-http-server'

const local = '/ip4/127.0.0.1/tcp/0'
const ipfs = await create({
  repo: process.argv[2],
  offline: true,
  silent: true,
  init: { emptyRepo: true, algorithm: 'Ed25519' },
  config: {
    Addresses: { Swarm: [], API: local, Gateway: local },
    Bootstrap: [],
    Discovery: { MDNS: { Enabled: false }, webRTCStar: { Enabled: false } }
  }
})
const api = new HttpApi(ipfs)
await api.start()
console.log(`http://127.0.0.1:${api._apiServers[0].info.port}`)
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
