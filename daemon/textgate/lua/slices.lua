-- SPDX-License-Identifier: MIT
-- Stands before the scripts of budgets: how a window is cut.
local SLICES = 24 -- of a day an hour each, of a minute 2.5 s

local function slice_at(at_ms, window_ms) return math.floor(at_ms * SLICES / window_ms) end

