"""A sentinel of its own process, that submits without end and prints what was acknowledged. To be killed."""

import asyncio
import random
import sys
from pathlib import Path

from ledger_support import GENESIS, NETWORK, KvApplication, sn

from swarmlearning.clock import system_clock
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.embedded import EmbeddedConfig, EmbeddedLedger
from swarmlearning.transport.memory import MemoryNetwork


def make_engine(directory: Path) -> tuple[EmbeddedLedger, KvApplication]:
    """The victim's engine, on what lies in `directory`."""
    key = SigningKey.load_or_create(directory / "key.pem")
    app = KvApplication(directory / "app.msgpack")
    config = EmbeddedConfig(
        network=NETWORK,
        genesis=GENESIS,
        data_dir=directory,
        node=sn(0).id,
        sentinel=sn(0).id,
        sentinel_key=key.public,
    )
    return EmbeddedLedger(config, app, key, MemoryNetwork().client(sn(0)), system_clock, random.Random(1)), app


async def _submit_forever(ledger: EmbeddedLedger, life: int, lane: int) -> None:
    number = 0
    while True:
        tx = b"%d.%d=%d" % (life, lane, number)
        await ledger.submit(tx, timeout_s=30.0)
        sys.stdout.buffer.write(tx + b"\n")
        sys.stdout.buffer.flush()
        number += 1


async def _main() -> None:
    ledger, _ = make_engine(Path(sys.argv[1]))
    await ledger.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.run())
        for lane in range(3):
            group.create_task(_submit_forever(ledger, int(sys.argv[2]), lane))


if __name__ == "__main__":
    asyncio.run(_main())
