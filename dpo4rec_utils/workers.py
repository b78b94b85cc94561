"""Worker processes that joblib keeps between trainings."""

from joblib.externals.loky import get_reusable_executor


def stop_workers() -> None:
    """End the worker processes that joblib keeps for the next trainings, and give their memory back."""
    get_reusable_executor().shutdown(wait=True)
