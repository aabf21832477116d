from hypothesis import Phase, settings

# A broken backend has to fail, and with the same steps every time; which are the fewest that make
# it fail is of no interest, and takes a hundred times longer to find out.
settings.register_profile(
    "broken", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None
)
