"""Local stand-ins for the services that the providers talk to, so that everything runs without an account.

Each stand-in speaks the vendor's own wire protocol well enough that the vendor's unmodified client library and the
stock Airflow provider cannot tell the difference, listens on the loopback interface only, and can be told to fail.
Where one deviates from the real service, its package docstring says so.

``python -m astronomer.lab up`` starts them and prints the Airflow connections to use.
"""
