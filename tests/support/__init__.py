"""What tests are made with: hostile stores and texts, mutated chunks."""
