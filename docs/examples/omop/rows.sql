-- A few made-up rows.

INSERT INTO cdm_source VALUES (
  'Made-up clinic', 'clinic', 'nobody', NULL, NULL, NULL,
  '2026-02-28', '2026-03-01', 'v5.4', 756265, 'v5.0 27-FEB-26'
);

INSERT INTO concept VALUES
  (201826, 'Type 2 diabetes mellitus', 'Condition', 'SNOMED', 'Disorder', 'S', '44054006', '2002-01-31', '2099-12-31', NULL),
  (320128, 'Essential hypertension', 'Condition', 'SNOMED', 'Disorder', 'S', '59621000', '2002-01-31', '2099-12-31', NULL),
  (3004410, 'Hemoglobin A1c/Hemoglobin.total in Blood', 'Measurement', 'LOINC', 'Lab Test', 'S', '4548-4', '1996-09-06', '2099-12-31', NULL),
  (3025315, 'Body weight', 'Measurement', 'LOINC', 'Clinical Observation', 'S', '29463-7', '2000-07-05', '2099-12-31', NULL),
  (8554, 'percent', 'Unit', 'UCUM', 'Unit', 'S', '%', '1970-01-01', '2099-12-31', NULL),
  (9529, 'kilogram', 'Unit', 'UCUM', 'Unit', 'S', 'kg', '1970-01-01', '2099-12-31', NULL);

INSERT INTO person (
  person_id, gender_concept_id, year_of_birth, month_of_birth, day_of_birth,
  race_concept_id, ethnicity_concept_id, person_source_value
) VALUES
  (1, 8532, 1951, 4, 12, 0, 0, 'A-0001'),
  (2, 8507, 1963, NULL, NULL, 0, 0, 'A-0002'),
  (3, 0, 1988, 11, NULL, 0, 0, 'A-0003');

INSERT INTO visit_occurrence (
  visit_occurrence_id, person_id, visit_concept_id, visit_start_date, visit_end_date,
  visit_type_concept_id, visit_source_value
) VALUES
  (11, 1, 9202, '2025-10-02', '2025-10-02', 32817, 'check-up'),
  (12, 1, 9201, '2025-12-20', '2025-12-27', 32817, 'ward 3'),
  (13, 2, 9203, '2026-01-05', '2026-01-05', 32817, NULL),
  (14, 3, 9202, '2026-02-11', '2026-02-11', 32817, 'check-up');

INSERT INTO condition_occurrence (
  condition_occurrence_id, person_id, condition_concept_id, condition_start_date,
  condition_end_date, condition_type_concept_id, visit_occurrence_id, condition_source_value
) VALUES
  (21, 1, 201826, '2019-03-01', NULL, 32817, 11, 'E11.9'),
  (22, 1, 320128, '2020-07-15', NULL, 32817, NULL, 'I10'),
  (23, 2, 320128, '2026-01-05', '2026-01-19', 32817, 13, NULL);

INSERT INTO measurement (
  measurement_id, person_id, measurement_concept_id, measurement_date,
  measurement_type_concept_id, value_as_number, unit_concept_id, visit_occurrence_id,
  measurement_source_value, unit_source_value
) VALUES
  (31, 1, 3004410, '2025-10-02', 32817, 7.10, 8554, 11, 'HbA1c', '%'),
  (32, 1, 3025315, '2025-12-20', 32817, 81.5, 9529, 12, 'weight', 'kg'),
  (33, 2, 3025315, '2026-01-05', 32817, 74, 9529, 13, 'weight', 'kg'),
  (34, 3, 0, '2026-02-11', 32817, NULL, NULL, 14, 'not mapped', NULL);

INSERT INTO cohort_definition (
  cohort_definition_id, cohort_definition_name, definition_type_concept_id, subject_concept_id
) VALUES (41, 'Hypertension', 0, 0);

INSERT INTO cohort VALUES
  (41, 1, '2020-07-15', '2099-12-31'),
  (41, 2, '2026-01-05', '2026-01-19');
