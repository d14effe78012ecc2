"""The road of a job, one step a module; nothing outside this package writes a job's state.

    submit ─▶ claim ─▶ launch ─▶ (the supervisor observes) ─▶ finish
                 cancel and rerun at any time

Every write after the claim is guarded by the attempt's lease token (`rows`): zero rows changed
means that somebody else holds the attempt now, and the holder of the old token stops (`LeaseLost`).
No call to Docker or MLflow happens inside a transaction.
"""
