"""A method for each of three connected streams, and functions in place of the class."""

from sage.api.function.comap_function import BaseCoMapFunction
from sage.api.function.source_function import SourceFunction
from sage.api.local_environment import LocalEnvironment


class Readings(SourceFunction):
    def __init__(self, readings, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.readings = readings
        self.index = 0

    def execute(self):
        if self.index < len(self.readings):
            self.index += 1
            return self.readings[self.index - 1]
        return None


class Sensors(BaseCoMapFunction):
    def __init__(self, limit=30, **kwargs):
        super().__init__(**kwargs)
        self.limit = limit

    def map0(self, temperature):
        return f"{temperature} °C{' (hot)' if temperature > self.limit else ''}"

    def map1(self, humidity):
        return f"{humidity} %" if humidity is not None and humidity >= 0 else None

    def map2(self, pressure):
        return f"{pressure} hPa"


def main():
    env = LocalEnvironment()
    temperature = env.from_source(Readings, [21.5, 31.0])
    humidity = env.from_source(Readings, [45, -1])
    pressure = env.from_source(Readings, [1013.2])
    temperature.connect(humidity).connect(pressure).comap(Sensors, limit=25).print("sensors", separator=": ")
    temperature.connect(humidity).comap([lambda t: f"t={t}", lambda h: f"h={h}"]).print("functions", separator=": ")
    env.submit(autostop=True)
    env.close()


if __name__ == "__main__":
    main()
