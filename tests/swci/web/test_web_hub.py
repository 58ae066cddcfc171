"""What a notice that everything may have changed does to listeners of the REST service: A-16, CI-29."""

import asyncio

from swarmlearning.sn.api import Changes
from swarmlearning.swci.web.hub import Hub
from swarmlearning.swci.web.wire import Changed, Event, Gap
from swarmlearning.types import TaskName

T = TaskName("t")


def test_a16_everything_may_have_changed_is_a_gap_for_who_listens_and_for_who_comes_back() -> None:
    async def story() -> tuple[list[Event], list[Event], list[Event]]:
        hub = Hub()
        hub.begin(Changes(height=3, everything=True))
        with hub.listen() as listener:
            begun = await listener.take(0)
            hub.publish(Changes(height=4, tasks=(T,)))
            hub.publish(Changes(height=7, everything=True))
            told = await listener.take(0)
        with hub.listen(after=4) as again:
            return begun, told, await again.take(0)

    begun, told, again = asyncio.run(story())
    assert begun == [Changed(height=3)], "the first notice of a stream is no gap"
    assert told == [Gap(height=7), Changed(height=4, tasks=(T,))]
    assert again[0] == Gap(height=7)


def test_a16_a_stream_that_goes_on_at_the_same_height_has_missed_nothing() -> None:
    async def story() -> list[Event]:
        hub = Hub()
        hub.begin(Changes(height=3, everything=True))
        hub.publish(Changes(height=4, tasks=(T,)))
        hub.begin(Changes(height=4, everything=True))
        with hub.listen(after=3) as again:
            return await again.take(0)

    assert asyncio.run(story()) == [Changed(height=4, tasks=(T,))]
