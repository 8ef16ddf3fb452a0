"""Large amounts wait for one another, small ones do not overtake them for ever, and no one waits for ever."""

import random
import threading
import time

import pytest

from utils.codecs.budget import Budget


def test_no_more_than_the_total_is_held_and_all_are_served():
    budget, lock, held, most = Budget(10), threading.Lock(), 0, 0

    def work(amounts):
        nonlocal held, most
        for amount in amounts:
            with budget.hold(amount):
                with lock:
                    held += min(amount, 10)
                    most = max(most, held)
                time.sleep(0.001)
                with lock:
                    held -= min(amount, 10)

    rng = random.Random(0)
    draws = [[rng.choice([1, 4, 9, 25]) for _ in range(30)] for _ in range(8)]
    threads = [threading.Thread(target=work, args=(amounts,)) for amounts in draws]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 10


def test_a_large_amount_is_not_overtaken():
    budget, order = Budget(10), []

    def take(name, amount):
        with budget.hold(amount):
            order.append(name)

    with budget.hold(5):
        threads = []
        for name, amount in (("large", 10), ("small", 1)):
            threads.append(threading.Thread(target=take, args=(name, amount)))
            threads[-1].start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["large", "small"]


def test_who_holds_a_part_takes_more_at_once():
    budget = Budget(10)
    with budget.hold(10), budget.hold(10):
        pass
    with budget.hold(10):
        pass


def test_an_error_gives_back():
    budget = Budget(10)
    with pytest.raises(KeyError), budget.hold(10):
        raise KeyError
    with budget.hold(10):
        pass
