"""Where runs are computed: a campaign in front, launchers behind it."""
