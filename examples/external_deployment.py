"""A Dag that waits for a Dag of another Airflow.

The sensor asks the other Airflow's REST API from the triggerer. It waits for the latest run of the other Dag, or for
the first one, if there is none yet. The other Airflow may be away for a while; the wait survives that.

Needs the Airflow connection `other_airflow`, with the other Airflow's address and a user or a token that may read its
Dag runs. Waits for `external_producer` there.
"""

from __future__ import annotations

from airflow.sdk import dag

from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor


@dag(schedule=None, catchup=False, tags=["external"], doc_md=__doc__)
def external_deployment():
    ExternalDeploymentSensor(
        task_id="wait",
        astro_cloud_conn_id="other_airflow",
        external_dag_id="external_producer",
        priority_weight=10,  # a wait holds no worker, so it may begin and go on before what does
    )


external_deployment()
