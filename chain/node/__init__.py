"""The embedded chain: py-evm behind JSON-RPC, one process, one producer, no privileged access.

store.py     blocks, transactions, logs, state and the waiting pool in one SQLite file
pool.py      transactions that wait: which are admitted, which replace which, which come first
chain.py     the rules: genesis, executing blocks, calls, gas estimates, the beacon value
encoding.py  JSON-RPC's hexadecimal, both ways
rpc.py       the methods
standalone.py  contracts executed in this process, without any chain
server.py    HTTP, the clock that makes blocks, signals
"""
