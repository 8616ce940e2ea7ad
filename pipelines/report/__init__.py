"""The report page, drawings, the contact sheet and the share of the actor kept."""
