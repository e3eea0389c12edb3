"""Services of plain classes and of BaseServiceTask, and functions that call them both ways."""

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.kernels.runtime.service.base_service_task import BaseServiceTask


class Prices:
    def __init__(self, currency="EUR"):
        self.currency = currency
        self.is_running = False

    def start_running(self):
        self.is_running = True
        print("prices started")

    def terminate(self):
        self.is_running = False
        print("prices terminated")

    def price(self, item):
        return {"tea": 4, "cup": 7}[item]

    def in_currency(self, amount):
        return f"{amount} {self.currency}"


class Visits(BaseServiceTask):
    def setup(self):
        self.visits = {}

    def add(self, user):
        self.visits[user] = self.visits.get(user, 0) + 1
        return self.visits[user]


class Requests(BaseFunction):
    def __init__(self, count=3):
        super().__init__()
        self.left = [("Mei", "tea"), ("Jonas", "cup"), ("Mei", "cup")][:count]

    def execute(self, data=None):
        return self.left.pop(0) if self.left else None


class Price(BaseFunction):
    def execute(self, data):
        user, item = data
        amount = self.call_service("prices", item, method="price")
        text = self.call_service_async["prices"].in_currency(amount).result()
        return {"user": user, "item": item, "price": text, "visit": self.call_service["visits"].add(user)}


class Show(BaseFunction):
    def execute(self, data):
        print("{user}, visit {visit}: {item} for {price}".format(**data))


def main():
    env = LocalEnvironment("services")
    env.register_service("prices", Prices, currency="CNY")
    env.register_service("visits", Visits)
    env.from_source(Requests, count=3).map(Price).map(Show)
    env.submit(autostop=True)


if __name__ == "__main__":
    main()
