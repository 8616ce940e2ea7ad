"""The report page, drawings and the contact sheet."""
