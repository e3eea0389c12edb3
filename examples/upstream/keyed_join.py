"""Customers and their orders, which come in any order, joined by the customer's number."""

from sage.api.function.batch_function import BatchFunction
from sage.api.function.join_function import BaseJoinFunction
from sage.api.function.keyby_function import KeyByFunction
from sage.api.function.sink_function import SinkFunction
from sage.api.local_environment import LocalEnvironment


class Customers(BatchFunction):
    def __init__(self):
        super().__init__()
        self.names = ["Mei", "Jonas", "Amina"]
        self.sent = 0

    def execute(self):
        if self.sent == len(self.names):
            return None
        self.sent += 1
        return {"customer": self.sent, "name": self.names[self.sent - 1]}


class Orders(BatchFunction):
    def __init__(self):
        super().__init__()
        self.left = [(3, "lamp"), (1, "tea"), (1, "cup"), (9, "nobody's")]

    def execute(self):
        if not self.left:
            return None
        customer, item = self.left.pop(0)
        return {"customer": customer, "item": item}


class ByCustomer(KeyByFunction):
    def execute(self, data):
        return data["customer"]


class CustomerOrders(BaseJoinFunction):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.names = {}
        self.waiting = {}

    def execute(self, payload, key, tag):
        if tag == 0:
            self.names[key] = payload["name"]
            return [{"name": payload["name"], "item": item} for item in self.waiting.pop(key, [])]
        if key in self.names:
            return [{"name": self.names[key], "item": payload["item"]}]
        self.waiting.setdefault(key, []).append(payload["item"])
        return []


class Show(SinkFunction):
    def execute(self, data):
        print(f"{data['name']} ordered {data['item']}")


def main():
    env = LocalEnvironment("keyed_join")
    customers = env.from_batch(Customers)
    orders = env.from_batch(Orders)
    customers.keyby(ByCustomer).connect(orders.keyby(ByCustomer)).join(CustomerOrders).sink(Show)
    env.submit(autostop=True)


if __name__ == "__main__":
    main()
