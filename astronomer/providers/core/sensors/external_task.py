"""The address of the sensors on other Dags of this Airflow."""

from __future__ import annotations

from astronomer.providers.core.sensors.dag_run import ExternalDagRunSensor
from astronomer.providers.core.sensors.task import ExternalTaskSensor, ExternalTaskSensorAsync

__all__ = ["ExternalDagRunSensor", "ExternalTaskSensor", "ExternalTaskSensorAsync"]
