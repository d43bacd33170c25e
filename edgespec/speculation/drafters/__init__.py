"""Sources of drafts; each implements `base.Drafter`."""
